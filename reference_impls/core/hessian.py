"""A layer as a least-squares problem: its weight as a matrix, its inputs as columns, the Hessian of its squared output error."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from reference_impls.core.blocks import Call, visit_inputs


def as_matrix(layer: nn.Module, weight: Tensor) -> Tensor:
    """A weight (out, in, *kernel) as (groups, out / groups, columns); the input channels run fastest along the columns.

    So the m weights of an N:M group, consecutive along the input dimension, are neighbours.
    """
    return weight.movedim(1, -1).reshape(getattr(layer, "groups", 1), -1, weight[0].numel())


def as_weight(matrix: Tensor, like: Tensor) -> Tensor:
    """The inverse of `as_matrix`, with the shape and dtype of `like`."""
    return matrix.reshape(like.movedim(1, -1).shape).movedim(-1, 1).to(like.dtype).contiguous()


def as_columns(layer: nn.Module, inputs: Tensor) -> Tensor:
    """What each weight of the layer is multiplied with: (groups, positions, columns), in the order of `as_matrix`.

    In single precision, or the inputs' own if that is higher.

    Args:
        layer: linear, or a convolution over one or two dimensions.
        inputs: a batch of the layer's inputs.

    Raises:
        ValueError: a layer of another type.
    """
    inputs = inputs.to(torch.promote_types(inputs.dtype, torch.float32))
    if isinstance(layer, nn.Linear):
        return inputs.reshape(1, -1, inputs.shape[-1])
    if not isinstance(layer, nn.Conv1d | nn.Conv2d):
        raise ValueError(f"model: {layer!r} is no linear layer and no convolution over one or two dimensions")
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    padded = nn.functional.pad(inputs, layer._reversed_padding_repeated_twice, mode)
    kernel, dilation, stride = layer.kernel_size, layer.dilation, layer.stride
    if isinstance(layer, nn.Conv1d):
        padded, kernel, dilation, stride = padded[:, :, None], (1, *kernel), (1, *dilation), (1, *stride)
    patches = nn.functional.unfold(padded, kernel, dilation, stride=stride)  # (batch, in * kernel, positions)
    in_channels = layer.in_channels // layer.groups
    split = patches.unflatten(1, (layer.groups, in_channels, -1))  # (batch, groups, in, kernel, positions)
    return split.permute(1, 0, 4, 3, 2).flatten(3).flatten(1, 2)


@torch.no_grad()
def layer_hessians(block: nn.Module, calls: Iterable[Call], layers: Iterable[nn.Module]) -> dict[nn.Module, Tensor]:
    """The Hessian of each layer's squared output error with respect to one row of its weight matrix.

    Every row has the same: ||w X - w' X||^2 is quadratic in w', with second derivative 2 X X^T.

    Returns:
        layer -> (groups, columns, columns).

    Raises:
        ValueError: as `as_columns` and `visit_inputs`.
    """
    hessians: dict[nn.Module, Tensor] = {}

    def accumulate(layer: nn.Module, inputs: Tensor) -> None:
        columns = as_columns(layer, inputs)
        # H = 2 X X^T
        hessians[layer] = hessians.get(layer, 0) + 2 * columns.mT @ columns

    visit_inputs(block, calls, layers, accumulate)
    return hessians


def dampened(hessian: Tensor, dampening: float) -> Tensor:
    """H + lambda I, with lambda = dampening * the mean of H's diagonal, so that H can be inverted.

    An input that is always zero has no say in the output; its diagonal entry becomes 1 first.

    Args:
        hessian: (columns, columns).
        dampening: fraction of the mean diagonal, >= 0.
    """
    diagonal = hessian.diagonal()
    live = torch.where(diagonal == 0, torch.ones_like(diagonal), diagonal)
    return hessian + torch.diag(live - diagonal + dampening * live.mean())
