"""What structured methods share: the groups of a network that may be pruned, and the layers that make and read their units."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from reference_impls.core.groups import Group, Member, dependency_groups
from reference_impls.core.masks import prunable_weights
from reference_impls.core.training import Batches

LAYERS = nn.Linear | nn.modules.conv._ConvNd


def one_example(batches: Batches) -> Tensor:
    """The first input, alone in its batch: enough to follow the channels through a network.

    Raises:
        ValueError: no batch.
    """
    for inputs, _ in batches:
        return inputs[:1]
    raise ValueError("batches: no calibration data; one example is needed to follow the channels")


def removable_groups(model: nn.Module, example: Tensor) -> list[Group]:
    """The dependency groups of the model that hold no frozen parameter.

    Raises:
        ValueError: there is none, or a weight is NaN or infinite.
    """
    prunable_weights(model)
    frozen = {name for name, parameter in model.named_parameters(remove_duplicate=False) if not parameter.requires_grad}
    groups = [group for group in dependency_groups(model, example) if not frozen & {member.tensor for member in group.members}]
    if not groups:
        raise ValueError("model: nothing to prune, every unit is fixed by an input, an output or a frozen parameter")
    return groups


def weights_among(model: nn.Module, members: Iterable[Member]) -> list[tuple[Member, Tensor]]:
    """Those members that are weights of linear or convolution layers, each with its weight (detached)."""
    return [
        (member, model.get_parameter(member.tensor).detach())
        for member in members
        if member.tensor.endswith("weight") and isinstance(model.get_submodule(member.layer), LAYERS)
    ]


def slice_norms(weight: Tensor, dim: int) -> Tensor:
    """The l1 norm of each slice of a weight along a dimension: shape (size of that dimension,)."""
    return weight.movedim(dim, 0).flatten(1).abs().sum(1)


def per_unit(member: Member, values: Tensor, size: int) -> Tensor:
    """Values per index along a member's dimension, summed over the indices that go with each of the group's `size` units."""
    units = member.units.to(values.device)
    inside = units >= 0
    return values.new_zeros(*values.shape[:-1], size).index_add(-1, units[inside], values[..., inside])


class Costs:
    """The multiply-accumulates of a network's linear and convolution layers, for any numbers of kept units."""

    def __init__(self, model: nn.Module, groups: Iterable[Group], example: Tensor) -> None:
        self.dense: dict[str, int] = {}  # layer -> multiply-accumulates
        self.inputs: dict[str, torch.Size] = {}  # layer -> shape of what it reads
        names = {module: name for name, module in model.named_modules() if isinstance(module, LAYERS)}

        def count(layer: nn.Module, args: tuple[Tensor, ...], outputs: Tensor) -> None:
            name = names[layer]
            per_output = layer.weight.numel() // (layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels)
            self.dense[name] = self.dense.get(name, 0) + outputs.numel() * per_output
            self.inputs[name] = args[0].shape

        hooks = [layer.register_forward_hook(count) for layer in names]
        training = {module: module.training for module in model.modules()}
        try:
            with torch.no_grad():
                model.eval()(example)
        finally:
            for hook in hooks:
                hook.remove()
            for module, mode in training.items():
                module.training = mode
        # (layer, dimension) -> its size, and how many indices each group's units have there
        self.cuts: dict[tuple[str, int], tuple[int, list[tuple[str, int, float]]]] = {}
        for group in groups:
            for member, weight in weights_among(model, group.members):
                if member.layer in self.dense:
                    cut = self.cuts.setdefault((member.layer, member.dim), (weight.shape[member.dim], []))
                    cut[1].append((group.name, group.size, int((member.units >= 0).sum()) / group.size))

    def __call__(self, kept: Mapping[str, int]) -> int:
        """Of one pass over the example, when each named group keeps that many units."""
        costs: dict[str, float] = dict(self.dense)
        for (layer, _), (size, parts) in self.cuts.items():
            gone = sum((whole - kept.get(name, whole)) * indices for name, whole, indices in parts)
            costs[layer] *= (size - gone) / size
        return round(sum(costs.values()))
