"""The measure inside the Trainer of transformers, and a sentence where Lightning is not installed."""

import importlib.util
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from onlyforward.core.errors import UsageError
from onlyforward.prune.connect import CoNNect

pytest.importorskip("transformers")


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)).double()


def test_the_callback_steps_when_due_and_only_then():
    from onlyforward.prune.integrations import ConnectCallback

    model, x = net(), torch.ones(1, 4).double()
    callback = ConnectCallback(x, strength=0.05, start=0.5, every=10)
    before = CoNNect(model, x).phi()
    for step in (10, 55):
        callback.on_step_end(None, SimpleNamespace(global_step=step, max_steps=100), None, model=model)
    assert CoNNect(model, x).phi() == before
    callback.on_step_end(None, SimpleNamespace(global_step=60, max_steps=100), None, model=model)
    assert CoNNect(model, x).phi() > before


def test_the_mixin_adds_r_to_the_trainers_loss():
    from onlyforward.prune.integrations import ConnectLoss

    class Trainer:
        def compute_loss(self, model, inputs, return_outputs=False):
            loss = model(inputs).square().mean()
            return (loss, "outputs") if return_outputs else loss

    class Mine(ConnectLoss, Trainer):
        connect_inputs = torch.ones(1, 4).double()
        connect_strength = 0.5

    model, inputs = net(), torch.ones(3, 4).double()
    plain = Trainer().compute_loss(model, inputs)
    r = CoNNect(model, Mine.connect_inputs)()
    assert torch.equal(Mine().compute_loss(model, inputs), plain + 0.5 * r)
    assert Mine().compute_loss(model, inputs, return_outputs=True)[1] == "outputs"


@pytest.mark.skipif(importlib.util.find_spec("lightning") is not None, reason="Lightning is installed")
def test_lightning_is_asked_for_by_name():
    from onlyforward.prune.integrations import ConnectLightning

    with pytest.raises(UsageError, match="pip install lightning"):
        ConnectLightning(torch.ones(1, 4))
