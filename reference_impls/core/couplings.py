"""What each tensor operation says about which indices must go together: the rules of `core/tracing.py`.

A rule joins the labels of its operands, notes what a weight produces and where removing differs from masking, and gives the
labels of its outputs. An operation without a rule fixes all that it touches.
"""

from collections.abc import Callable
from math import prod

import numpy as np
import torch

from reference_impls.core.tracing import Axes, Axis, Call, Rule, Trace, Traced, fixed

RULES: dict[str, Rule] = {}


def _rule(*names: str) -> Callable[[Rule], Rule]:
    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        return function

    return register


@_rule("unknown")
def _unknown(trace: Trace, call: Call) -> list[Axes]:
    trace.refuse(f"no rule for {call.function}", [axis for x in call.operands for axis in x.axes])
    return []


@_rule("new_zeros", "new_ones", "new_empty", "new_full", "_local_scalar_dense", "equal", "is_same_size")
def _takes_no_channel(trace: Trace, call: Call) -> list[Axes]:
    return []


@_rule("pointwise", "_to_copy", "detach", "alias", "lift_fresh", "copy", "zeros_like", "ones_like", "full_like", "_prelu_kernel")
def _pointwise(trace: Trace, call: Call) -> list[Axes]:
    operands, axes = call.operands, []
    shape = call.outputs[0].shape
    for back, size in enumerate(reversed(shape), 1):
        here = [x.axes[-back] if len(x.axes) >= back and len(x.axes[-back].labels) == size else None for x in operands]
        present = [axis for axis in here if axis is not None]
        trace.fix(x.axes[-back] for x, axis in zip(operands, here, strict=True) if axis is None and len(x.axes) >= back)  # broadcast
        for axis in present[1:]:
            trace.join(present[0], axis)
        labels = present[0].labels if present else fixed(size).labels
        axes.append(Axis(labels, bool(labels.any()) and trace.zero_stays_zero(call, tuple(a is not None and a.zero for a in here))))
    if not all(x.state for x in operands):
        trace.produce(*operands)
    return [tuple(reversed(axes))]


def add_bias(trace: Trace, bias: Traced | None, axes: Axes) -> Axes:
    """`axes` + bias along the last dimension; other dimensions no longer read 0."""
    if bias is None:
        return axes
    trace.produce(bias)
    last = trace.join(axes[-1], bias.axes[-1], axes[-1].zero and bias.axes[-1].zero)
    return (*(Axis(axis.labels) for axis in axes[:-1]), last)


@_rule("mm", "addmm")
def _matrix_product(trace: Trace, call: Call) -> list[Axes]:
    *bias, a, b = call.operands
    trace.contract(a, b, 1, 0)
    return [add_bias(trace, bias[0] if bias else None, (trace.root(a, 0), trace.root(b, 1)))]


@_rule("bmm")
def _batched_product(trace: Trace, call: Call) -> list[Axes]:
    a, b = call.operands
    trace.contract(a, b, 2, 1)
    batch = trace.join(a.axes[0], b.axes[0], a.axes[0].zero or b.axes[0].zero)
    return [(batch, trace.root(a, 1), trace.root(b, 2))]


@_rule("convolution")
def _convolution(trace: Trace, call: Call) -> list[Axes]:
    x, weight, bias, *_, transposed, _, groups = call.args
    inward, outward = (0, 1) if transposed else (1, 0)
    if groups == 1:
        trace.contract(x, weight, 1, inward)
        out = trace.root(weight, outward)
    elif transposed:
        return _unknown(trace, call)
    elif weight.tensor.shape[1] == 1:  # depthwise: filter o reads channel o // multiplier
        multiplier = weight.tensor.shape[0] // groups
        out = weight.axes[0]
        trace.join(out, Axis(np.repeat(x.axes[1].labels, multiplier)))
        trace.produce(Traced(weight.tensor, (out,), weight.state))
        # a whole multiple of filters must go with a channel
        first = out.labels.reshape(groups, multiplier)[:, :1]
        trace.joined.append((np.repeat(first, multiplier), out.labels))
    else:  # every group of channels loses the same places, so that groups stay equal
        places = Axis(x.axes[1].labels.reshape(groups, -1)[0], x.axes[1].zero)
        trace.joined.append((np.tile(places.labels, groups), x.axes[1].labels))
        trace.contract(Traced(x.tensor, (x.axes[0], places), x.state), weight, 1, 1)
        out = trace.root(weight, 0)
        trace.joined.append((np.tile(out.labels.reshape(groups, -1)[0], groups), out.labels))
    (out,) = add_bias(trace, bias, (out,))
    return [(x.axes[0], out, *map(fixed, call.outputs[0].shape[2:]))]


@_rule("embedding")
def _embedding(trace: Trace, call: Call) -> list[Axes]:
    weight, indices = call.args[:2]
    trace.fix(weight.axes[:1])  # ids come from outside
    return [(*indices.axes, trace.root(weight, 1))]


@_rule("native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training", "cudnn_batch_norm", "miopen_batch_norm")
def _batch_norm(trace: Trace, call: Call) -> list[Axes]:
    x, *state = call.args[:5]
    for tensor in filter(None, state):
        trace.join(x.axes[1], tensor.axes[0])
    trace.produce(*filter(None, state[:2]))
    scaled = state[0] is not None and state[1] is not None  # without scale and shift a masked channel leaves as -mean / std
    return [(x.axes[0], Axis(x.axes[1].labels, scaled), *x.axes[2:])]


@_rule("native_layer_norm", "_fused_rms_norm")
def _layer_norm(trace: Trace, call: Call) -> list[Axes]:
    x, shape = call.args[:2]
    state = [tensor for tensor in call.args[2:4] if isinstance(tensor, Traced)]
    if not state:
        trace.refuse("layer norm of a fixed shape without parameters", x.axes[-len(shape) :])
    for tensor in state:
        for one, other in zip(x.axes[-len(shape) :], tensor.axes, strict=True):
            trace.join(one, other)
    trace.produce(*state)
    trace.inexact += [axis.labels for axis in x.axes[-len(shape) :]]  # its mean and variance run over the masked ones too
    return [tuple(Axis(axis.labels, d >= x.tensor.ndim - len(shape)) for d, axis in enumerate(x.axes))]


@_rule("native_group_norm")
def _group_norm(trace: Trace, call: Call) -> list[Axes]:
    x, weight, bias, *_, groups, _ = call.args
    labels = x.axes[1].labels
    if weight is None:
        trace.refuse("group norm without parameters", x.axes[1:2])
    for tensor in filter(None, (weight, bias)):
        trace.join(x.axes[1], tensor.axes[0])
    trace.produce(weight, bias)
    trace.joined.append((np.tile(labels.reshape(groups, -1)[0], groups), labels))  # groups stay equal
    trace.inexact.append(labels)
    return [(x.axes[0], Axis(labels, True), *x.axes[2:])]


@_rule(
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_fused_attention_overrideable",
)
def _attention(trace: Trace, call: Call) -> list[Axes]:
    query, key, value = call.args[:3]
    heads = query.axes[1]
    for x in (key, value):
        shared = len(heads.labels) // len(x.axes[1].labels)
        trace.join(heads, Axis(np.repeat(x.axes[1].labels, shared)))
    trace.fix(x.axes[-1] for x in (query, key, value))  # a head goes whole: the default scale is a function of its size
    mask = call.kwargs.get("attn_mask")
    if mask is not None and len(mask.axes) == 4 and len(mask.axes[1].labels) == len(heads.labels):
        trace.join(heads, mask.axes[1])
    return [(query.axes[0], Axis(heads.labels, value.axes[1].zero), query.axes[2], fixed(value.tensor.shape[-1]))]


@_rule("_softmax", "_log_softmax", "_safe_softmax")
def _softmax(trace: Trace, call: Call) -> list[Axes]:
    x, dim = call.args[:2]
    trace.refuse("softmax over removable units", [x.axes[dim]])
    return [tuple(Axis(axis.labels) for axis in x.axes)]


@_rule("glu")
def _gated(trace: Trace, call: Call) -> list[Axes]:
    x, dim = call.args[0], (call.args[1] if len(call.args) > 1 else -1) % len(call.args[0].axes)
    value, gate = np.split(x.axes[dim].labels, 2)
    trace.joined.append((value, gate))
    return [(*x.axes[:dim], Axis(value, x.axes[dim].zero), *x.axes[dim + 1 :])]


@_rule("mean", "sum", "var", "var_mean", "std", "amax", "amin", "max", "min", "argmax")
def _reduction(trace: Trace, call: Call) -> list[Axes]:
    x = call.args[0]
    given = call.args[1] if len(call.args) > 1 else None
    given = call.kwargs.get("dim", given)
    name = call.function.overloadpacket.__name__
    if not isinstance(given, int | list | tuple | None):
        return _unknown(trace, call)
    dims = {d % x.tensor.ndim for d in ([given] if isinstance(given, int) else given or range(x.tensor.ndim))}
    for d in dims:
        if name in ("mean", "var", "var_mean", "std") or (name == "sum" and not x.axes[d].zero):
            trace.inexact.append(x.axes[d].labels)
        elif name != "sum":
            trace.refuse(f"{call.function} over removable units", [x.axes[d]])
    keeps = call.outputs[0].ndim == x.tensor.ndim
    stays = name in ("mean", "sum", "amax", "amin", "max", "min")
    axes = [fixed(1) if d in dims else Axis(a.labels, a.zero and stays) for d, a in enumerate(x.axes) if keeps or d not in dims]
    return [tuple(axes)] * len(call.outputs)


@_rule(
    *("avg_pool1d", "avg_pool2d", "avg_pool3d", "max_pool2d_with_indices", "max_pool3d_with_indices", "_adaptive_avg_pool2d"),
    *("_adaptive_avg_pool3d", "adaptive_max_pool2d", "upsample_nearest1d", "upsample_nearest2d", "upsample_bilinear2d"),
    *("upsample_bicubic2d", "reflection_pad1d", "reflection_pad2d", "replication_pad2d"),
)
def _over_space(trace: Trace, call: Call) -> list[Axes]:
    x, shape = call.args[0], call.outputs[0].shape
    space = len(shape) - 2 if len(shape) > 3 or "1d" in str(call.function) else 2
    kept = len(shape) - space
    trace.refuse(f"{call.function} over removable units", x.axes[kept:])
    return [(*x.axes[:kept], *map(fixed, shape[kept:]))] * len(call.outputs)


@_rule("constant_pad_nd")
def _pad(trace: Trace, call: Call) -> list[Axes]:
    x, amounts = call.args[0], call.args[1]
    axes = list(x.axes)
    for back in range(len(amounts) // 2):
        if amounts[2 * back] or amounts[2 * back + 1]:
            trace.refuse("padding of removable units", [axes[-1 - back]])
            axes[-1 - back] = fixed(call.outputs[0].shape[-1 - back])
    return [tuple(Axis(a.labels, a.zero and not any(call.args[2:])) for a in axes)]


@_rule("view", "_unsafe_view", "_reshape_alias", "reshape", "unsqueeze", "squeeze", "flatten")
def _view(trace: Trace, call: Call) -> list[Axes]:
    """Cut both shapes into the shortest runs of equal product, and carry labels run by run."""
    x, new = call.args[0], tuple(call.outputs[0].shape)
    old, axes, i, j = tuple(x.tensor.shape), [], 0, 0
    while i < len(old) or j < len(new):
        start, begin = i, j
        i, j = min(i + 1, len(old)), min(j + 1, len(new))
        while (a := prod(old[start:i])) != (b := prod(new[begin:j])):
            i, j = (i + 1, j) if a < b else (i, j + 1)
        axes += _carry(trace, x.axes[start:i], old[start:i], new[begin:j])
    return [tuple(axes)]


def _carry(trace: Trace, axes: Axes, old: tuple[int, ...], new: tuple[int, ...]) -> list[Axis]:
    """Labels of a run of dimensions seen in another shape of as many elements."""
    if old == new:
        return list(axes)
    labelled = [d for d, axis in enumerate(axes) if axis.labels.any()]
    if len(labelled) > 1:
        trace.refuse(f"two removable dimensions seen as {new}", axes)
    if len(labelled) != 1 or prod(new) == 1:
        trace.fix(axes)
        return [fixed(size) for size in new]
    (d,) = labelled
    grid = np.broadcast_to(axes[d].labels.reshape([-1 if k == d else 1 for k in range(len(old))]), old).reshape(new)
    for k in range(len(new)):
        line = np.moveaxis(grid, k, 0).reshape(new[k], -1)
        if (line == line[:, :1]).all() and new[k] > 1:
            return [Axis(line[:, 0].copy(), axes[d].zero) if n == k else fixed(size) for n, size in enumerate(new)]
    return trace.split_heads(grid, axes[d].zero)


@_rule("permute", "transpose", "t")
def _permute(trace: Trace, call: Call) -> list[Axes]:
    x, *dims = call.args
    order = list(range(len(x.axes)))
    if "permute" in str(call.function):
        order = [d % len(order) for d in dims[0]]
    elif len(order) > 1:
        a, b = dims or (0, 1)
        order[a], order[b] = order[b], order[a]
    return [tuple(x.axes[d] for d in order)]


@_rule("expand", "repeat")
def _expand(trace: Trace, call: Call) -> list[Axes]:
    x, shape = call.args[0], call.outputs[0].shape
    axes = (*(fixed(1) for _ in range(len(shape) - len(x.axes))), *x.axes)
    tiles = [size // max(1, len(axis.labels)) for size, axis in zip(shape, axes, strict=True)]
    for axis, times in zip(axes, tiles, strict=True):
        if times > 1 and len(axis.labels) == 1:
            trace.fix([axis])
    return [tuple(Axis(np.tile(axis.labels * (len(axis.labels) > 1 or t == 1), t), axis.zero) for axis, t in zip(axes, tiles, strict=True))]


@_rule("cat")
def _cat(trace: Trace, call: Call) -> list[Axes]:
    tensors = [x for x in call.args[0] if x.tensor.numel()]
    dim = (call.args[1] if len(call.args) > 1 else call.kwargs.get("dim", 0)) % len(tensors[0].axes)
    axes = []
    for d in range(len(tensors[0].axes)):
        parts = [x.axes[d] for x in tensors]
        zero = all(axis.zero or not axis.labels.any() for axis in parts)
        if d == dim:
            axes.append(Axis(np.concatenate([axis.labels for axis in parts]), zero))
        else:
            for part in parts[1:]:
                trace.join(parts[0], part)
            axes.append(Axis(parts[0].labels, all(axis.zero for axis in parts)))
    if not all(x.state for x in tensors):
        trace.produce(*tensors)
    return [tuple(axes)]


@_rule("stack")
def _stack(trace: Trace, call: Call) -> list[Axes]:
    tensors = call.args[0]
    dim = (call.args[1] if len(call.args) > 1 else 0) % (len(tensors[0].axes) + 1)
    axes = []
    for parts in zip(*(x.axes for x in tensors), strict=True):
        for part in parts[1:]:
            trace.join(parts[0], part)
        axes.append(Axis(parts[0].labels, all(axis.zero for axis in parts)))
    if not all(x.state for x in tensors):
        trace.produce(*tensors)
    axes.insert(dim, fixed(len(tensors)))
    return [tuple(axes)]


@_rule("split", "split_with_sizes", "chunk")
def _split(trace: Trace, call: Call) -> list[Axes]:
    """Equal pieces stay equal: what goes from one goes from all. Unequal pieces are named in the forward pass."""
    x = call.args[0]
    dim = call.args[2] if len(call.args) > 2 else call.kwargs.get("dim", 0)
    sizes = [out.shape[dim] for out in call.outputs]
    axis = x.axes[dim]
    if len(sizes) > 1 and len(set(sizes)) > 1:
        trace.refuse("split into unequal pieces", [axis])
    elif len(sizes) > 1:
        trace.joined.append((np.tile(axis.labels[: sizes[0]], len(sizes)), axis.labels))
    pieces = np.split(axis.labels, np.cumsum(sizes)[:-1])
    return [tuple(Axis(piece, a.zero) if d == dim % len(x.axes) else a for d, a in enumerate(x.axes)) for piece in pieces]


@_rule("slice", "select", "unbind", "index_select", "narrow")
def _part(trace: Trace, call: Call) -> list[Axes]:
    """A part of one dimension, chosen by numbers that stand in the forward pass: that dimension must stay as it is."""
    x, *rest = call.args
    dim = (rest[0] if rest else 0) % len(x.axes)
    shape = call.outputs[0].shape
    drops = len(shape) < len(x.axes)
    if not drops and shape == x.tensor.shape and "slice" in str(call.function):
        return [x.axes]
    trace.refuse(f"{call.function} of removable units", [x.axes[dim]])
    return [(*x.axes[:dim], *([] if drops else [fixed(shape[dim])]), *x.axes[dim + 1 :])] * len(call.outputs)


@_rule("index")
def _index(trace: Trace, call: Call) -> list[Axes]:
    x, indices = call.args
    places = [d for d, i in enumerate(indices) if i is not None]
    trace.refuse("indexing of removable units", [x.axes[d] for d in places])
    if len(places) > 1 and places != list(range(places[0], places[-1] + 1)):
        return _unknown(trace, call)
    width = max(len(indices[d].axes) for d in places) if indices[places[0]].tensor.dtype != torch.bool else 0
    if not width:
        return _unknown(trace, call)
    shape = call.outputs[0].shape
    return [(*x.axes[: places[0]], *map(fixed, shape[places[0] : places[0] + width]), *x.axes[places[-1] + 1 :])]
