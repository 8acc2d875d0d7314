"""`onlyforward doctor`: is this installation whole, and can these files be read?"""

from __future__ import annotations

import os
import platform
import shutil
import sys
import time
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import tyro

from onlyforward.core.errors import OnlyForwardError
from onlyforward.run.context import Common, Context
from onlyforward.run.result import Result

EXTRAS: dict[str, tuple[str, ...]] = {
    "data": ("sklearn", "scipy", "PIL", "pandas"),
    "report": ("matplotlib",),
    "onnx": ("onnxruntime",),
    "http": ("httpx",),
    "ray": ("ray",),
    "spiking": ("snntorch",),
    "graph": ("torch_geometric",),
    "hf": ("transformers", "peft"),
    "rl": ("gymnasium", "numba"),
    "schedule": ("numba", "scipy", "ortools", "highspy"),
    "quantum": ("sklearn", "qiskit", "qiskit_aer", "qiskit_ibm_runtime", "pennylane"),
    "prune": ("torch_pruning", "onnx", "onnxscript", "onnxruntime"),
    "track": ("tensorboard",),
}
"""Extra -> the modules it brings."""

DATASETS = (
    "ag_news",
    "cifar10_jpeg",
    "cora",
    "factory_jobshop",
    "fashion_mnist",
    "imagenet_samples",
    "mnist",
    "models",
    "movielens_latest_small",
    "retail_bakery",
    "retail_oj",
    "retail_olist_price",
    "retail_walmart_weekly",
    "scheduling",
    "scheduling_release_generated",
    "sst2",
    "stocks10",
)


@dataclass(frozen=True, kw_only=True)
class Options(Common):
    """Check the installation, the data sets and files."""

    paths: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Files to examine: what they are, whether they are safe, which command takes them."""
    deep: bool = False
    """Import every optional package instead of looking for it."""
    max_mb: int = 2048
    """Largest size in memory that a file may ask for, in MB."""


def run(options: Options, context: Context) -> Result:
    """Installation first, then every path; a refused file makes the exit code 2."""
    result = context.result(question="Is this installation whole?")
    problems: list[str] = []
    result.table("Machine", ["what", "value"], machine(context))
    rows = extras(problems, deep=options.deep)
    result.table("Extras", ["extra", "installed", "to install it"], rows)
    found = datasets()
    result.table(
        "Data sets",
        ["name", "found"],
        [[name, name in found] for name in DATASETS],
        "Looked for in the folder that ONLYFORWARD_DATA names and in ../shared/data; digits are built in.",
    )
    refused = files(options, result) if options.paths else 0
    result.metric("problems", len(problems))
    result.metric("extras_installed", sum(bool(row[1]) for row in rows))
    result.metric("extras_total", len(rows))
    result.metric("datasets_found", len(found))
    result.metric("datasets_total", len(DATASETS))
    result.metric("files", len(options.paths))
    result.metric("files_readable", len(options.paths) - refused)
    result.metric("files_refused", refused)
    result.notes += problems
    result.answer = "No problems found." if not problems else f"{len(problems)} problems: {'; '.join(problems)}."
    if refused:
        result.answer += f" {refused} of {len(options.paths)} files are refused."
        result.exit_code = 2
    return result


def machine(context: Context) -> list[list[Any]]:
    """Interpreter, cores, disk, versions against the constraints of the tests."""
    free = shutil.disk_usage(context.folder or Path.cwd()).free / 1e9
    rows: list[list[Any]] = [
        ["Python", platform.python_version()],
        ["cores", os.cpu_count()],
        ["free disk (GB)", round(free, 1)],
        ["clock", time.strftime("%Y-%m-%d %H:%M:%S %Z")],
    ]
    for name in ("onlyforward", "torch", "numpy", "safetensors", "rich", "tyro"):
        try:
            rows.append([name, metadata.version(name)])
        except metadata.PackageNotFoundError:
            rows.append([name, "not installed"])
    return rows


def extras(problems: list[str], *, deep: bool) -> list[list[Any]]:
    """Which extras are whole; Python and the required packages are problems, a missing extra is not."""
    if sys.version_info[:2] < (3, 11):  # noqa: UP036 (a wheel can be unpacked anywhere)
        problems.append(f"Python {platform.python_version()} is older than 3.11")
    problems += [f"{name} is not installed" for name in ("torch", "numpy", "safetensors") if find_spec(name) is None]
    if find_spec("torchvision") is not None:
        problems.append(
            "torchvision is installed; builds that do not match torch break imports: pip uninstall torchvision"
        )
    rows = []
    for extra, modules in EXTRAS.items():
        absent = [module for module in modules if find_spec(module) is None]
        if deep and not absent:
            absent = [module for module in modules if not imports(module, problems)]
        rows.append([extra, not absent, "" if not absent else f'pip install "onlyforward[{extra}]"'])
    return rows


def imports(module: str, problems: list[str]) -> bool:
    """Whether a module really imports."""
    import importlib

    try:
        importlib.import_module(module)
    except Exception as error:
        problems.append(f"{module} does not import: {error}")
        return False
    return True


def datasets() -> set[str]:
    """Names of the data sets whose folder is there."""
    places = [Path(os.environ["ONLYFORWARD_DATA"])] if os.environ.get("ONLYFORWARD_DATA") else []
    places += [Path("../shared/data"), Path(__file__).resolve().parents[4] / "shared" / "data"]
    return {name for name in DATASETS if any((place / name).is_dir() for place in places)}


def files(options: Options, result: Result) -> int:
    """One row a path; returns how many are refused."""
    from onlyforward.data.files import examine

    rows, refused = [], 0
    for path in options.paths:
        try:
            found = examine(path, max_mb=options.max_mb)
            rows.append([str(path), found.kind, found.shape, "readable", found.command])
        except OnlyForwardError as error:
            refused += 1
            rows.append([str(path), "", "", f"refused: {error}", ""])
    result.table("Files", ["path", "kind", "shape", "verdict", "taken by"], rows)
    return refused
