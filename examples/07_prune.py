"""Prune: 98 % of a network's weights go, and no output loses its last path."""

import torch
from torch import nn

import onlyforward as of

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, 10))
example = torch.ones(1, 64)

connectivity = of.CoNNect(model, example)
print(f"R = {float(connectivity().detach()):.4f}   phi = {connectivity.phi():.2e}")

masks = of.safe_masks(model, example, 0.98)
report = connectivity.report(masks)
print(f"{report.nonzero} of {report.weights} weights kept, {report.live} on a path, {report.dead_outputs} dead outputs")
