"""How each operation carries flow: the function rules, as a value that a user can extend."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from onlyforward.prune import elementwise, places, products
from onlyforward.prune.mode import Call, ModuleRule, Rule
from onlyforward.prune.modules import attend, attention, graph_modules, gru, lstm, rnn


@dataclass(frozen=True)
class Rules:
    """Function and module rules.

    Attributes:
        functions: name of an operation -> rule(call) -> tensor.
        modules: class of a module -> rule(flow, module, args, kwargs), which replaces its forward.
    """

    functions: Mapping[str, Rule] = field(default_factory=dict)
    modules: Mapping[type, ModuleRule] = field(default_factory=dict)

    def register_rule(self, target: str | type | Callable[..., Any], rule: Any) -> Rules:
        """These rules and one more, for an operation (its name or function) or a class of modules."""
        if isinstance(target, type) and issubclass(target, nn.Module):
            return Rules(self.functions, {**self.modules, target: rule})
        name = target if isinstance(target, str) else getattr(target, "__name__", str(target))
        return Rules({**self.functions, name: rule}, self.modules)


def register_rule(target: str | type | Callable[..., Any], rule: Any, rules: Rules | None = None) -> Rules:
    """The default rules (or `rules`) with one more: hand the result to CoNNect(rules=...)."""
    return (rules or default_rules()).register_rule(target, rule)


def constant_result(call: Call) -> Any:
    """Shapes, new constants and comparisons: nothing live comes out."""
    args, kwargs, _, _, _ = call.mode.values(call)
    return call.function(*args, **kwargs)


def as_is(call: Call) -> Any:
    """Views, places and maxima: the operation itself on the flow."""
    return call.mode.as_is(call)


ACTIVATIONS = """
relu relu6 gelu silu tanh sigmoid log_softmax elu leaky_relu prelu hardswish hardsigmoid hardtanh mish softplus
softsign logsigmoid celu selu rrelu hardshrink tanhshrink softshrink threshold dropout dropout1d dropout2d
dropout3d alpha_dropout feature_dropout feature_alpha_dropout clamp clip clamp_min clamp_max neg negative positive
abs absolute exp expm1 log log1p square sqrt erf nan_to_num normalize round floor ceil softmin sin cos tan atan
sinh asinh logit lerp clone
"""

PASSED = """
view reshape flatten unflatten permute transpose swapaxes swapdims movedim moveaxis t expand expand_as squeeze
unsqueeze getitem cat concat concatenate stack hstack vstack chunk split tensor_split unbind index_select gather
select narrow roll flip repeat repeat_interleave tile take take_along_dim unfold view_as reshape_as masked_select
maximum minimum max min amax amin cumsum pixel_shuffle pixel_unshuffle channel_shuffle as_strided diagonal tril
triu interpolate upsample broadcast_to atleast_1d atleast_2d atleast_3d ravel adjoint fold topk sort
"""

CONSTANT = """
size dim numel shape new_zeros new_ones new_full new_empty new_tensor zeros_like ones_like full_like empty_like
rand_like randn_like eq ne lt le gt ge __eq__ __ne__ __lt__ __le__ __gt__ __ge__ isnan isinf isfinite argmax argmin
argsort is_floating_point is_complex stride storage_offset ndimension element_size __len__ is_contiguous get_device
item tolist numpy any all nonzero __bool__ __float__ __int__ allclose equal is_nonzero bool int long numel nelement
__repr__ __format__ bitwise_not logical_not __contains__ is_inference is_pinned __hash__ _is_view has_names unique
bincount count_nonzero signbit sign
"""


def default_rules() -> Rules:
    """Every rule that ships, as a fresh value."""
    functions: dict[str, Rule] = {
        "linear": products.linear,
        "addmm": products.addmm,
        "addmv": products.addmm,
        "baddbmm": products.addmm,
        "addbmm": products.addmm,
        "rmatmul": products.rmatmul,
        "einsum": products.einsum,
        "bilinear": products.bilinear,
        "embedding": products.embedding,
        "embedding_bag": products.embedding_bag,
        "batch_norm": elementwise.batch_norm,
        "layer_norm": elementwise.norm_with(2, False),
        "rms_norm": elementwise.norm_with(2, False),
        "group_norm": elementwise.norm_with(2, True),
        "instance_norm": elementwise.norm_with(3, True),
        "local_response_norm": elementwise.identity,
        "mul": elementwise.multiply,
        "div": elementwise.divide,
        "add": elementwise.add,
        "sub": elementwise.add,
        "rsub": elementwise.add,
        "subtract": elementwise.add,
        "reciprocal": elementwise.ones,
        "rsqrt": elementwise.ones,
        "var": elementwise.ones,
        "std": elementwise.ones,
        "norm": elementwise.ones,
        "vector_norm": elementwise.ones,
        "linalg_vector_norm": elementwise.ones,
        "logsumexp": elementwise.ones,
        "pow": elementwise.power,
        "softmax": elementwise.softmax,
        "glu": elementwise.gated,
        "masked_fill": elementwise.fill,
        "where": elementwise.where,
        "mean": places.reduce_with("mean"),
        "sum": places.reduce_with("sum"),
        "pad": places.pad,
        "setitem": places.setitem,
        "scatter_add": places.scatter_add,
        "index_add": places.index_add,
        "scatter_reduce": places.scatter_reduce,
        "copy": places.copy,
        "scaled_dot_product_attention": attention,
        "multi_head_attention_forward": attend,
        "lstm": lstm,
        "gru": gru,
        "rnn_tanh": rnn,
        "rnn_relu": rnn,
    }
    functions |= dict.fromkeys(("matmul", "mm", "bmm", "mv", "spmm"), products.matmul)
    for dims in (1, 2, 3):
        functions |= {f"conv{dims}d": products.conv, f"conv_transpose{dims}d": products.conv_transpose}
        functions |= {f"{kind}_pool{dims}d": places.pool_with(dims) for kind in ("avg", "max")}
        functions[f"max_pool{dims}d_with_indices"] = places.pool_with(dims)
        functions |= {f"adaptive_{kind}_pool{dims}d": places.adaptive_with(dims) for kind in ("avg", "max")}
    functions |= {name: elementwise.identity for name in (*ACTIVATIONS.split(), *elementwise.CASTS)}
    functions |= {name: as_is for name in PASSED.split()}
    functions |= {name: constant_result for name in CONSTANT.split()}
    functions |= {f"get:{name}": as_is for name in ("T", "mT", "H", "mH", "data", "real")}
    return Rules(functions, graph_modules())
