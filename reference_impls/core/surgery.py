"""Removing units for real: a network whose tensors are smaller, or its partner of unchanged shapes with the same units zeroed."""

from collections.abc import Iterable, Mapping
from copy import deepcopy

import torch
from torch import Tensor, nn

from reference_impls.core.groups import Group, Member

Kept = Mapping[str, Tensor]  # group name -> bool, shape (size of the group,); True = kept


def remove(model: nn.Module, groups: Iterable[Group], kept: Kept) -> nn.Module:
    """A copy of `model` without the units that are not kept.

    Weights, biases, norm statistics and the sizes that modules state are all smaller. Ties, frozen flags, dtype and device are
    those of `model`; gradients are dropped, as their shapes no longer fit.

    Args:
        groups: from `dependency_groups` of this model.
        kept: per group what stays; a group that is not named stays whole.

    Raises:
        ValueError: an unknown group, a mask of wrong size or type, or a group of which nothing would stay.
    """
    kept = _checked(groups := list(groups), kept)
    small = deepcopy(model)
    before = {id(module): _groups_of_convolution(module) for module in small.modules()}
    tensors = dict([*small.named_parameters(), *small.named_buffers()])
    stays = _stays(groups, kept, tensors)
    for (name, dim), keep in stays.items():
        tensors[name].data = tensors[name].data.index_select(dim, keep.nonzero().flatten().to(tensors[name].device))
    for group in groups:
        for path, attribute in group.attributes if group.name in kept else ():
            module = small.get_submodule(path)
            setattr(module, attribute, getattr(module, attribute) * int(kept[group.name].sum()) // group.size)
    for module in small.modules():
        _state_sizes(module, *before[id(module)])
    return small


def masked(model: nn.Module, groups: Iterable[Group], kept: Kept) -> nn.Module:
    """A copy of `model`, all shapes unchanged, with the units that are not kept zero in every slice that produces them.

    For an exact group, it computes what `remove` computes. Arguments and errors as there.
    """
    kept = _checked(groups := list(groups), kept)
    copy = deepcopy(model)
    parameters = dict(copy.named_parameters())
    for group in groups:
        for member in group.producers if group.name in kept else ():
            if member.tensor in parameters:
                parameter = parameters[member.tensor]
                parameter.data.index_fill_(member.dim, _gone(member, kept[group.name]).nonzero().flatten().to(parameter.device), 0)
    return copy


def _checked(groups: list[Group], kept: Kept) -> dict[str, Tensor]:
    sizes = {group.name: group.size for group in groups}
    for name, mask in kept.items():
        if name not in sizes:
            raise ValueError(f"kept: no group {name!r}; there are {', '.join(sizes) or 'none'}")
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.shape != (sizes[name],):
            found = f"{mask.dtype} {tuple(mask.shape)}" if isinstance(mask, Tensor) else type(mask).__name__
            raise ValueError(f"kept: {name} needs a bool tensor of shape ({sizes[name]},), not {found}")
        if not mask.any():
            raise ValueError(f"kept: nothing of {name} would stay; at least one unit must")
    return {name: mask.cpu() for name, mask in kept.items()}


def _gone(member: Member, keep: Tensor) -> Tensor:
    return (member.units >= 0) & ~keep[member.units]


def _stays(groups: list[Group], kept: dict[str, Tensor], tensors: Mapping[str, Tensor]) -> dict[tuple[str, int], Tensor]:
    """Per tensor and dimension the indices that stay: a concatenation is cut by several groups at once."""
    stays: dict[tuple[str, int], Tensor] = {}
    for group in groups:
        for member in group.members if group.name in kept else ():
            if member.tensor not in tensors or tensors[member.tensor].shape[member.dim] != len(member.units):
                raise ValueError(f"groups: {group.name} belongs to another model, {member.tensor} does not fit")
            gone = _gone(member, kept[group.name])
            if gone.any():
                key = (member.tensor, member.dim)
                stays[key] = stays.get(key, torch.ones(len(gone), dtype=torch.bool)) & ~gone
    return stays


def _groups_of_convolution(module: nn.Module) -> tuple[bool, int]:
    """(depthwise, filters per channel), which the smaller weight alone no longer tells."""
    if not isinstance(module, nn.modules.conv._ConvNd) or module.groups == 1:
        return False, 1
    return module.groups == module.in_channels, module.out_channels // module.groups


def _state_sizes(module: nn.Module, depthwise: bool, multiplier: int) -> None:
    """Write into a module the sizes that its tensors now have."""
    weight = getattr(module, "weight", None)
    if isinstance(module, nn.modules.conv._ConvNd):
        if depthwise:
            module.groups = weight.shape[0] // multiplier
        outward, inward = weight.shape[:2]
        if module.transposed:
            module.in_channels, module.out_channels = outward, inward * module.groups
        else:
            module.in_channels, module.out_channels = inward * module.groups, outward
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = weight.shape
    elif isinstance(module, nn.Embedding):
        module.num_embeddings, module.embedding_dim = weight.shape
    elif isinstance(module, nn.modules.batchnorm._NormBase):
        state = weight if weight is not None else module.running_mean
        module.num_features = len(state) if state is not None else module.num_features
    elif isinstance(module, nn.GroupNorm) and weight is not None:
        module.num_channels = len(weight)
    elif isinstance(module, nn.LayerNorm | nn.RMSNorm) and weight is not None:
        module.normalized_shape = tuple(weight.shape)
