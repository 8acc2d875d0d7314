"""The training loop: epochs of seeded minibatches, exact or measured gradients, and a state that resumes to the bit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from onlyforward.core.keys import Key
from onlyforward.detect.ansatz import Ansatz
from onlyforward.detect.backends import Backend
from onlyforward.detect.engine import Engine, feature_count
from onlyforward.detect.gradients import Plan, estimate
from onlyforward.detect.objective import WARM_UP, Objective, first_center
from onlyforward.run.state import load_optimizer_state, optimizer_state


@dataclass(frozen=True)
class Settings:
    """How to train.

    Attributes:
        objective: one-class or soft-boundary.
        nu: see `Objective`.
        latent: features that the objective sees.
        lr: step size of Adam.
        milestone: epoch at which lr is divided by ten, or None.
        epochs: passes over the rows.
        batch: rows per step.
        weight_decay: added to the gradient, times theta.
        pretrain: None or "autoencoder": as many epochs before, with a linear decoder that is thrown away.
        dtype: of the engine.
        device: cpu or cuda.
    """

    objective: str = "one-class"
    nu: float = 0.1
    lr: float = 0.03
    milestone: int | None = None
    epochs: int = 60
    batch: int = 50
    weight_decay: float = 0.0
    pretrain: str | None = None
    dtype: str = "float32"
    device: str = "cpu"
    latent: str = "z"


@dataclass
class Trainer:
    """One detector in training.

    Attributes:
        ansatz: the circuit.
        psi: training states [N, 2^n].
        settings: how to train.
        key: coordinates of all random numbers.
        plan: how to estimate gradients from measurements, or None for autograd through the exact engine.
        backend: where measurements run, with a plan.
        history: mean loss of every epoch.
    """

    ansatz: Ansatz
    psi: Tensor
    settings: Settings
    key: Key
    plan: Plan | None = None
    backend: Backend | None = None
    epoch: int = 0
    history: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        chosen = self.settings
        self.engine = Engine(self.ansatz, chosen.dtype, chosen.device)
        self.psi = self.psi.to(self.engine.device, self.engine.real)
        self.theta = initial_angles(self.ansatz, self.key).to(self.engine.device, self.engine.real).requires_grad_()
        self.before = chosen.epochs if chosen.pretrain else 0
        shape = (self.psi.shape[1], feature_count(self.ansatz.n, chosen.latent) + 1)
        self.decoder = torch.zeros(shape if chosen.pretrain else (0, 0)).to(self.psi).requires_grad_()
        self.optimizer = self.fresh_optimizer()
        self.radius2 = torch.zeros((), dtype=self.engine.real, device=self.engine.device)
        self.center = self.find_center()

    @property
    def total(self) -> int:
        """Epochs, those of pretraining included."""
        return self.before + self.settings.epochs

    @property
    def objective(self) -> Objective:
        """The loss as it stands."""
        return Objective(self.settings.objective, self.center, self.settings.nu, self.radius2, self.settings.latent)

    def fresh_optimizer(self) -> torch.optim.Adam:
        """Adam on the angles, and on the decoder while it is there."""
        trained = [self.theta, self.decoder] if self.epoch < self.before else [self.theta]
        return torch.optim.Adam(trained, lr=self.settings.lr, weight_decay=self.settings.weight_decay)

    def latents(self) -> Tensor:
        """The objective's latents of all training rows [N, m], measured where training is."""
        if self.plan is not None and self.backend is not None:
            at = self.key.at(site="latents", step=self.epoch)
            found, _ = self.backend.expect_features(
                self.psi, self.theta.detach(), shots=self.plan.shots, key=at, latent=self.settings.latent
            )
            return found.to(self.theta)
        with torch.no_grad():
            return self.engine.expect(self.psi, self.theta, self.settings.latent)

    def find_center(self) -> Tensor:
        """Centre of the first forward pass; frozen from here on."""
        return first_center(self.latents())

    def run_epoch(self) -> None:
        """One pass over the rows; losses stay on the device until its end."""
        chosen = self.settings
        if self.before and self.epoch == self.before:
            self.optimizer = self.fresh_optimizer()
            self.center = self.find_center()
        own = self.epoch - self.before
        if own == chosen.milestone:
            for group in self.optimizer.param_groups:
                group["lr"] = chosen.lr / 10
        order = torch.randperm(len(self.psi), generator=self.key.at(site="shuffle", step=self.epoch).generator())
        losses = []
        for number, rows in enumerate(order.split(chosen.batch)):
            part = self.psi[rows.to(self.psi.device)]
            self.optimizer.zero_grad(set_to_none=True)
            losses.append(self.step(part, number) * len(part))
            self.optimizer.step()
        self.history.append(float(torch.stack(losses).sum()) / len(self.psi))
        if chosen.objective == "soft-boundary" and own + 1 >= WARM_UP:
            distance = (self.latents() - self.center).square().sum(1)
            self.radius2 = torch.quantile(distance, 1 - chosen.nu)
        self.epoch += 1

    def step(self, part: Tensor, number: int) -> Tensor:
        """Fill the gradients of one minibatch; returns its mean loss."""
        if self.plan is not None and self.backend is not None:
            at = self.key.at(site="step", step=self.epoch * 100_000 + number)
            value, loss = estimate(self.plan, self.backend, self.ansatz, part, self.theta.detach(), self.objective, at)
            self.theta.grad = value
            return loss
        f = self.engine.expect(part, self.theta, self.settings.latent)
        if self.epoch < self.before:
            made = f @ self.decoder[:, :-1].T + self.decoder[:, -1]
            loss = (made - part).square().sum(1).mean()
        else:
            loss = self.objective.of(f).mean()
        loss.backward()
        return loss.detach()

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and JSON data that the next epoch depends on."""
        tensors, skeleton = optimizer_state(self.optimizer)
        tensors |= {"theta": self.theta, "decoder": self.decoder, "center": self.center, "radius2": self.radius2}
        data: dict[str, Any] = {"epoch": self.epoch, "history": list(self.history), "optimizer": skeleton}
        if self.backend is not None:
            account = self.backend.account  # type: ignore[attr-defined]
            data["spent"] = [account.jobs, account.shots]
        return tensors, data

    def load(self, tensors: Mapping[str, Tensor], data: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.epoch, self.history = data["epoch"], list(data["history"])
        with torch.no_grad():
            self.theta.copy_(tensors["theta"])
            self.decoder.copy_(tensors["decoder"])
        self.center, self.radius2 = tensors["center"].to(self.theta), tensors["radius2"].to(self.theta)
        # The optimiser of the epoch just done: a new one, if due, is made when the next epoch begins.
        self.epoch -= 1
        self.optimizer = self.fresh_optimizer()
        self.epoch += 1
        load_optimizer_state(self.optimizer, tensors, data["optimizer"])
        if self.backend is not None:
            account = self.backend.account  # type: ignore[attr-defined]
            account.jobs, account.shots = data["spent"]


def initial_angles(ansatz: Ansatz, key: Key) -> Tensor:
    """0.01 N(0, 1): [P] in float64, so that all precisions begin alike."""
    noise = torch.randn(ansatz.parameters, dtype=torch.float64, generator=key.at(site="angles").generator())
    return 0.01 * noise
