"""Options of the `detect` commands; the work is imported when it runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import tyro

from onlyforward.run.application import Demo
from onlyforward.run.benchmark import BenchOptions
from onlyforward.run.bounds import Count, Natural, NotNegative, Positive, Share
from onlyforward.run.context import Common

if TYPE_CHECKING:
    from onlyforward.run.context import Context
    from onlyforward.run.result import Result


@dataclass(frozen=True, kw_only=True)
class Rows(Common):
    """Where rows come from, for every command that reads some."""

    data: str = ""
    """digits, mnist or fashion_mnist."""
    csv: Path | None = None
    """Table with a heading line; comma, semicolon or tab."""
    label: str = ""
    """Column that says what a row is."""
    normal: str = ""
    """The label of normal rows; with --data also "all": one detector per class."""
    id: str = ""
    """Column that names the rows, never a feature."""
    drop: str = ""
    """Comma-separated columns to leave out."""
    missing: Literal["stop", "drop", "median"] = "stop"
    """Empty or non-finite cells: stop with their place, drop the row, or take the column's training median."""


@dataclass(frozen=True, kw_only=True)
class Model(Rows):
    """Settings of a detector; every default is the preset's."""

    preset: str = "recommended"
    """recommended (digits, images or tables, by the data), paper, paper-fast or device."""
    n_qubits: int | None = None
    """Number of qubits."""
    n_layers: int | None = None
    """Number of layers."""
    ansatz: str | None = None
    """ry_brick, ry_rz_brick or su4_shared."""
    preprocess: str | None = None
    """offset, l2_offset, l2 or gcn_tanh."""
    offset: NotNegative | None = None
    """Weight rho of the offset amplitude."""
    reduce: str | None = None
    """pca: project to 2^n - 1 columns."""
    latent: str | None = None
    """z, z+zz or z+zz+zzz: features behind the mahalanobis score."""
    objective_latent: str | None = None
    """z, z+zz or z+zz+zzz: those of them that are trained, and the distance score."""
    score: str | None = None
    """mahalanobis or distance."""
    objective: str | None = None
    """one-class or soft-boundary."""
    nu: float | None = None
    """Share of normal rows that may be flagged, between 0 and 1."""
    threshold: str | None = None
    """auto, crossfit, holdout or train."""
    calibration: float | None = None
    """Share of rows that the threshold "holdout" keeps out of training."""
    center: str | None = None
    """first_pass or refit."""
    pretrain: str | None = None
    """autoencoder: pretrain with a linear decoder."""
    lr: Positive | None = None
    """Step size of Adam."""
    lr_milestone: Natural | None = None
    """Epoch at which the step size is divided by ten."""
    max_epochs: Count | None = None
    """Passes over the rows."""
    batch_size: Count | None = None
    """Rows per step."""
    weight_decay: NotNegative | None = None
    """Weight decay of the angles."""
    gradient: str | None = None
    """auto, backprop, parameter_shift, random_shift, likelihood_ratio, likelihood_ratio_scalar or spsa."""
    copies: Count | None = None
    """Pairs or axes per row of the measured gradients."""
    shots: int | None = None
    """Measurements per job (default: exact)."""
    noise: str | None = None
    """fast or density."""
    backend: str | None = None
    """Where training measures: torch, aer, pennylane, fake_<device> or ibm:<device>."""
    max_shots: Count | None = None
    """Budget of shots, never exceeded."""
    max_jobs: Count | None = None
    """Budget of jobs (one row with one set of angles), never exceeded."""
    dtype: str | None = None
    """float32, float64, complex64 or complex128, of training."""


@dataclass(frozen=True, kw_only=True)
class Fit(Model):
    """Fit a detector on normal rows and judge it where labels exist."""

    CUDA: ClassVar[bool] = True
    """It computes on CUDA devices too."""

    images: Path | None = None
    """Folder of png or jpg files, read as greyscale; all are taken as normal."""
    train: Natural = 0
    """Normal rows to train on, with --data (default: 100 of digits, 300 of images)."""
    test_fraction: Share = 0.3
    """Share of the normal rows of a table that is kept for testing where labels exist."""
    peers: str = ""
    """Comma-separated: ocsvm, iforest, kde, pca, ledoitwolf, cosine, deepsvdd, untrained."""
    top: Natural = 12
    """Rows shown in the report, most anomalous first."""


@dataclass(frozen=True, kw_only=True)
class Score(Rows):
    """Score the rows of a table or data set with a fitted detector."""

    folder: tyro.conf.Positional[Path]
    """--out folder of a finished `detect fit`."""
    images: Path | None = None
    """Folder of png or jpg files."""
    top: Natural = 20
    """Rows shown in the report, most anomalous first."""
    scores: Path | None = None
    """CSV file to write: row, score, flagged, in input order."""


@dataclass(frozen=True, kw_only=True)
class RunOnDevice(Rows):
    """Calibrate a detector on a noisy device or its simulator, and score there with counted shots."""

    folder: tyro.conf.Positional[Path | None] = None
    """--out folder of a finished `detect fit`; without it the device preset is trained on --data."""
    backend: str = "fake_manila"
    """fake_<device>, aer, ibm:<device>, fast or density."""
    shots: int = 4096
    """Measurements per row."""
    rows: int = 120
    """Rows to score per detector, half normal and half anomalous."""
    calibration_rows: int = 100
    """Training rows run on the device to calibrate (at most 200 are kept with a detector)."""
    dry_run: bool = False
    """Print jobs, shots and depth, and send nothing."""
    max_shots: Count | None = None
    """Budget of shots, never exceeded."""


@dataclass(frozen=True, kw_only=True)
class Calibrate(Common):
    """Calibrate a detector on a device and save it in --out."""

    folder: tyro.conf.Positional[Path]
    """--out folder of a finished `detect fit`."""
    backend: str = "fake_manila"
    """fake_<device>, aer, ibm:<device>, fast or density."""
    shots: int = 4096
    """Measurements per row."""
    max_shots: Count | None = None
    """Budget of shots, never exceeded."""


@dataclass(frozen=True, kw_only=True)
class Export(Common):
    """Write a detector's circuit for other tools and compare its states with the engine's."""

    folder: tyro.conf.Positional[Path]
    """--out folder of a finished `detect fit`."""
    format: Literal["qiskit", "qasm3", "pennylane"] = "qasm3"
    """qiskit (QPY), qasm3 (text) or pennylane (Python source)."""


@dataclass(frozen=True, kw_only=True)
class BenchQuantum(BenchOptions):
    """Engine, detectors, devices and gradients, with the peers measured beside them."""

    seeds: int = 3
    """Number of seeds; with --quick one for images and three for digits."""


@dataclass(frozen=True, kw_only=True)
class DemoOptions(Common):
    """One class of digits against the others: 36 angles beside the peers."""


DEMO = Demo(options=DemoOptions(), targets={"detect_auc": (">=", 0.95)})


def run(options: Any, context: Context) -> Result:
    """Run one `detect` command."""
    from onlyforward.detect import device, export, scoring, study

    work = {
        Fit: study.fit,
        Score: scoring.score,
        RunOnDevice: device.run_on_device,
        Calibrate: device.calibrate,
        Export: export.export,
        DemoOptions: study.demo,
    }
    return work[type(options)](options, context)
