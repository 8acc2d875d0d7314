"""torch.nn.utils.prune: safe masks as weight_orig and weight_mask."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.utils import prune

from onlyforward.prune.masks import safe_masks


class ConnectUnstructured(prune.BasePruningMethod):
    """One layer's part of a safe mask, as a method of torch.nn.utils.prune.

    `ConnectUnstructured.global_unstructured(model, x, 0.9)` masks a whole model; every masked parameter becomes
    `weight_orig` and `weight_mask`, and `prune.remove(module, "weight")` makes it permanent.

    Args:
        mask: True where a weight stays, of the parameter's shape.
    """

    PRUNING_TYPE = "unstructured"

    def __init__(self, mask: Tensor) -> None:
        self.mask = mask

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        """The given mask below what is masked already."""
        return default_mask * self.mask.to(default_mask)

    @classmethod
    def global_unstructured(cls, model: nn.Module, example_inputs: Any, sparsity: float, **options: Any) -> None:
        """Mask every weight of a model by `safe_masks`, in place; `options` are its own."""
        for name, mask in safe_masks(model, example_inputs, sparsity, **options).items():
            owner, _, leaf = name.rpartition(".")
            cls.apply(model.get_submodule(owner), leaf, mask)
