"""What is compared: a penalty while training, a score, whether masks are guarded, and which setting is tuned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

KAPPAS = (0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Method:
    """One way to prune while and after training.

    Attributes:
        name: on the command line.
        l1: weight of sum |W| in the loss.
        l2: weight of sum W^2 in the loss.
        prox: threshold of the proximal step w <- sign(w) max(|w| - lr * prox, 0).
        spred: weight of sum U^2 + V^2 with W = U V.
        step: strength a of the decoupled step.
        connect: weight of R in the loss.
        score: of the weights.
        guarded: safe masks instead of the best scores.
        kappa: of the guarded score.
        start: fraction of training before the connectivity acts.
        every: optimiser steps between two of its actions.
        tuned: the field that is chosen on validation data, and its four values; every method gets as many.
        values: of the tuned field.
    """

    name: str
    l1: float = 0.0
    l2: float = 0.0
    prox: float = 0.0
    spred: float = 0.0
    step: float = 0.0
    connect: float = 0.0
    score: str = "magnitude"
    guarded: bool = False
    kappa: float = 0.5
    start: float = 0.3
    every: int = 10
    tuned: str = ""
    values: tuple[float, ...] = ()

    def settings(self) -> list[Method]:
        """The settings among which validation data choose."""
        return [replace(self, **{self.tuned: value}) for value in self.values] or [self]

    @property
    def same_training(self) -> bool:
        """Whether the tuned setting leaves training alone."""
        return self.tuned in {"", "kappa"}


OURS = Method("connect", l2=1e-3, step=0.01, guarded=True, tuned="kappa", values=KAPPAS)

PEERS: Mapping[str, Method] = {
    m.name: m
    for m in (
        Method("magnitude"),
        Method("l1", l1=1e-4, tuned="l1", values=(1e-5, 3e-5, 1e-4, 3e-4)),
        Method("l2", l2=1e-3, tuned="l2", values=(3e-4, 1e-3, 3e-3, 1e-2)),
        Method("l1-prox", prox=3e-2, tuned="prox", values=(1e-3, 3e-3, 1e-2, 3e-2)),
        Method("spred", spred=1e-4, tuned="spred", values=(3e-5, 1e-4, 3e-4, 1e-3)),
        Method("l2-guarded", l2=1e-3, guarded=True, tuned="kappa", values=KAPPAS),
        Method("connect-adam", connect=1e-2, guarded=True, tuned="connect", values=(1e-4, 1e-3, 1e-2, 1e-1)),
        Method("connect-l1", connect=1e-3, l1=1e-4, guarded=True, tuned="kappa", values=KAPPAS),
        Method("lamp", score="lamp"),
        Method("random", score="random"),
        Method("snip", score="snip"),
        Method("grasp", score="grasp"),
        Method("synflow", score="synflow"),
    )
}
