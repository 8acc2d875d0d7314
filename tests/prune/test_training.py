"""Fine-tuning: its learning rate, and that what was removed stays away."""

from dataclasses import replace

import pytest
import torch

from onlyforward.core.keys import Key
from onlyforward.data.sets import load
from onlyforward.prune.command import Run
from onlyforward.prune.experiment import Plan, prune_once, train_dense
from onlyforward.prune.masks import apply_masks, safe_masks
from onlyforward.prune.methods import OURS
from onlyforward.prune.study import ours, peer, plan_of
from onlyforward.prune.training import Task, cycle, fit
from onlyforward.prune.zoo import MODELS, Recipe, build

WHOLE = Recipe(epochs=1, finetune=1, batch=0, lr=1e-3, peak=3e-2)
"""One step on all data: the first step of Adam moves every weight by the learning rate."""


def pruned(sparsity=0.9):
    """A network of random weights, pruned, with its masks and its task."""
    task = Task(load("digits"))
    model = build("mlp", task.data, Key(), width=20, depth=3)
    masks = safe_masks(model, task.example, sparsity)
    apply_masks(model, masks)
    return model, masks, task


def test_the_rate_rises_for_a_fifth_of_the_steps_and_falls_to_nothing():
    rates = [cycle(step, 100) for step in range(100)]
    assert rates[:20] == pytest.approx([(k + 1) / 20 for k in range(20)])
    assert rates[20] == 1.0
    assert rates[60] == pytest.approx(0.5)
    assert rates[20:] == sorted(rates[20:], reverse=True)
    assert rates[-1] < 1e-3
    assert cycle(0, 1) == 1.0


@pytest.mark.parametrize(("peak", "moved"), [(3e-2, 3e-2), (0.0, 1e-3)])
def test_fine_tuning_moves_kept_weights_at_the_peak_and_removed_ones_never(peak, moved):
    model, masks, task = pruned()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    fit(model, task, replace(WHOLE, peak=peak), OURS, Key(), epochs=1, weights=list(masks), masks=masks)
    steps = [(p.detach() - before[name]).abs() for name, p in model.named_parameters() if name in masks]
    assert max(float(step.max()) for step in steps) == pytest.approx(moved, rel=1e-2)
    for name, p in model.named_parameters():
        if name in masks:
            assert bool((p[~masks[name]] == 0).all())


def test_training_and_what_is_pruned_before_it_keep_the_plain_rate():
    task = Task(load("digits"))
    plan = Plan(task, "mlp", WHOLE, (0.9,), width=20, depth=3)
    start = build("mlp", task.data, Key(), width=20, depth=3)
    trained, _ = train_dense(plan, replace(OURS, step=0.0), Key())
    pairs = zip(start.parameters(), trained.parameters())
    assert max(float((a - b).detach().abs().max()) for a, b in pairs) == pytest.approx(1e-3, rel=1e-2)
    model, masks, _ = prune_once(replace(plan, at_init=True), OURS, start, 0.9, Key(), 1)
    moved = [
        (p - dict(start.named_parameters())[name])[masks[name]] for name, p in model.named_parameters() if p.ndim > 1
    ]
    assert max(float(step.detach().abs().max()) for step in moved) == pytest.approx(1e-3, rel=1e-2)


def test_a_peak_repairs_a_sparse_network_that_the_plain_rate_leaves_broken():
    model, masks, task = pruned(0.95)
    broken = {name: p.detach().clone() for name, p in model.named_parameters()}
    losses = {}
    for peak in (0.0, 3e-2):
        model.load_state_dict(broken)
        fit(model, task, Recipe(1, 1, peak=peak), OURS, Key(), epochs=10, weights=list(masks), masks=masks)
        with torch.no_grad():
            losses[peak] = float(task.loss(model, task.train_rows()))
    assert losses[3e-2] < 0.7 * losses[0.0]


@pytest.mark.parametrize("model", ["mlp", "vgg11"])
def test_the_peer_with_safe_masks_differs_from_ours_by_the_step_alone(model):
    options = Run(model=model)
    plan = plan_of(options)
    assert plan.recipe.l2 == MODELS[model][1].l2 > 0
    assert replace(ours(options, plan), step=0.0, name="l2-guarded") == replace(peer("l2-guarded", plan), step=0.0)
    assert ours(replace(options, l2=3e-4), plan).l2 == 3e-4
