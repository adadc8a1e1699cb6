"""Soft pruning of filters: what is chosen becomes zero after each epoch and may come back; what is zero at the end is removed."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from reference_impls.core.groups import Group, Member
from reference_impls.core.rounds import made_by_convolutions
from reference_impls.core.structures import removable_groups, weights_among
from reference_impls.core.surgery import remove
from reference_impls.core.training import Callback

Choose = Callable[[Tensor], Tensor]  # the filters of a group, one a row -> bool per filter; True = kept


def _made(model: nn.Module, group: Group) -> list[Member]:
    """The weights of convolutions that make a group's filters; not their biases, nor the norms that follow."""
    convolutions = nn.modules.conv._ConvNd
    return [m for m, _ in weights_among(model, group.producers) if isinstance(model.get_submodule(m.layer), convolutions)]


def filters(model: nn.Module, group: Group) -> Tensor:
    """The filters of a group, one a row; where several convolutions make one unit, their filters side by side.

    Returns:
        Shape (group.size, weights of a filter), detached. Where a layer makes only some of the units, zeros fill up the rest.
    """
    columns = []
    for member in _made(model, group):
        rows = model.get_parameter(member.tensor).detach().movedim(member.dim, 0).flatten(1)
        columns.append(pad_sequence([rows[member.indices(unit)].flatten() for unit in range(group.size)], batch_first=True))
    return torch.cat(columns, 1)


class SoftFilters(Callback):
    """Sets the chosen filters to zero before the first step and after each epoch, and removes them in the end.

    Attributes:
        kept: which filters were not zero when they were last chosen: group name -> bool per filter.
    """

    def __init__(self, choose: Choose, update_pruned: bool = True) -> None:
        """
        Args:
            update_pruned: whether zero filters get the loss's gradient; if not, only what the optimizer remembers moves them.
        """
        self.choose = choose
        self.update_pruned = update_pruned

    def start(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        def follow(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            hook.remove()
            self.groups = made_by_convolutions(model, removable_groups(model, inputs[0][:1].detach()))
            self._prune(model)

        hook = model.register_forward_pre_hook(follow)  # the channels can be followed only with an example

    def after_backward(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        if not self.update_pruned:
            self._clear(model, lambda parameter: parameter.grad)

    def epoch_end(self, model: nn.Module, epoch: int) -> None:
        self._prune(model)

    def finish(self, model: nn.Module) -> nn.Module:
        return remove(model, self.groups, self.kept)

    def _prune(self, model: nn.Module) -> None:
        self.kept = {group.name: self.choose(filters(model, group)) for group in self.groups}
        self._clear(model, lambda parameter: parameter.data)

    def _clear(self, model: nn.Module, of: Callable[[nn.Parameter], Tensor]) -> None:
        for group in self.groups:
            for member in _made(model, group):
                gone = ~self.kept[group.name].cpu()[member.units] & (member.units >= 0)
                tensor = of(model.get_parameter(member.tensor))
                tensor.index_fill_(member.dim, gone.nonzero().flatten().to(tensor.device), 0)
