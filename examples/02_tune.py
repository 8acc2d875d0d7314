"""A closed digits classifier sees rotated images: an affine map before it, found by questions alone."""

import torch

import onlyforward as of
from onlyforward.data.corruptions import rotate
from onlyforward.data.sets import load

data = load("digits")
means = torch.stack([data.x_train[data.y_train == k].flatten(1).mean(0) for k in range(10)])


def closed(images: torch.Tensor) -> torch.Tensor:
    """Somebody else's classifier: scores, and no gradient."""
    return -30 * torch.cdist(images.flatten(1).float(), means) ** 2


oracle = of.Oracle(closed)
turned = rotate(data.x_train, 25.0)
shots = torch.cat([(data.y_train == k).nonzero().flatten()[:12] for k in range(10)])
tuned = of.tune(oracle, turned[shots], data.y_train[shots], adapter="affine", budget=4000)

test, labels = rotate(data.x_test, 25.0), data.y_test
before = (closed(test).argmax(1) == labels).double().mean()
after = (closed(tuned.adapter(test)).argmax(1) == labels).double().mean()
print(f"accuracy {before:.2f} before, {after:.2f} after {tuned.account.queries} queries")

plan = of.Neyman().plan(100, of.Features(residual=torch.tensor([0.1, 0.4, 1.5])))
print(f"100 runs over three items: {plan.counts.tolist()}, variance {plan.expected_gain:.2f} times lower")
