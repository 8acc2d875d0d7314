"""Train: a network with a step that has no derivative learns digits from forward passes alone."""

import torch
from torch import nn

import onlyforward as of
from onlyforward.data.sets import load

torch.manual_seed(0)
torch.set_num_threads(1)
data = load("digits")


class Quantise(nn.Module):
    """Eight levels: backpropagation through it is zero everywhere."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.round(4 * torch.tanh(x)) / 4


model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), Quantise(), nn.Linear(32, 10))
engine = of.LikelihoodRatio(model, copies=32, noise="gaussian")
optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)


def loss_fn(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Losses [b]."""
    return nn.functional.cross_entropy(output, target, reduction="none")


for epoch in range(5):
    for rows in torch.randperm(len(data.x_train)).split(64):
        optimizer.zero_grad()
        loss = engine.backward(loss_fn, data.x_train[rows], data.y_train[rows])
        optimizer.step()
    accuracy = (model(data.x_test).argmax(1) == data.y_test).double().mean()
    print(f"epoch {epoch + 1}: loss {float(loss):.3f}, test accuracy {accuracy:.3f}")
print(f"{engine.cost()[0]:.1f} forward runs a step, no backward pass through the quantiser")
