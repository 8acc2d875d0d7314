"""Settings under names; `QuantumSVDD.preset(name)` and `onlyforward detect fit --preset NAME`."""

from __future__ import annotations

from typing import Any

from onlyforward.core.checks import check_choice

PRESETS: dict[str, dict[str, Any]] = {
    "tables": {"preprocess": "offset", "lr": 0.03, "max_epochs": 60},
    "digits": {"n_qubits": 6, "n_layers": 6, "preprocess": "l2", "lr": 0.05, "max_epochs": 100, "latent": "z+zz+zzz"},
    "images": {
        "n_qubits": 8,
        "n_layers": 10,
        "preprocess": "l2_offset",
        "lr": 0.03,
        "max_epochs": 40,
        "latent": "z+zz+zzz",
    },
    "paper": {
        "n_qubits": 10,
        "n_layers": 20,
        "preprocess": "gcn_tanh",
        "latent": "z",
        "statistic": "distance",
        "threshold": "train",
        "lr": 1e-3,
        "lr_milestone": 50,
        "max_epochs": 150,
        "batch_size": 200,
        "weight_decay": 5e-7,
    },
    "device": {
        "n_qubits": 4,
        "n_layers": 4,
        "preprocess": "l2",
        "lr": 0.05,
        "max_epochs": 80,
        "latent": "z+zz+zzz",
    },
}
PRESETS["paper-fast"] = {**PRESETS["paper"], "lr": 0.02, "lr_milestone": None, "max_epochs": 20, "batch_size": 50}

NAMES = ("recommended", *PRESETS)


def settings(name: str, *, data: str = "table") -> dict[str, Any]:
    """Constructor arguments of a preset; "recommended" depends on the data: digits, image or table."""
    check_choice(name, NAMES, name="preset")
    if name == "recommended":
        name = {"digits": "digits", "image": "images"}.get(data, "tables")
    return dict(PRESETS[name])
