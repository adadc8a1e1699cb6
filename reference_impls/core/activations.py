"""What units say: the maps that come out of the rectifiers, sorted by the dependency group whose units they are."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from reference_impls.core.groups import Group
from reference_impls.core.structures import weights_among
from reference_impls.core.training import Batches, evaluating

RECTIFIERS = {functional.relu, functional.relu_, functional.relu6, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_}
MAPS = {functional.linear, functional.conv1d, functional.conv2d, functional.conv3d, torch.conv1d, torch.conv2d, torch.conv3d}


class _Follow(TorchFunctionMode):
    """Follows the units of each group from the layers that make them, along dimension 1, through whatever keeps their number."""

    def __init__(self, model: nn.Module, groups: Iterable[Group], see: Callable[[str, Tensor], None]) -> None:
        super().__init__()
        self.see = see
        self.makers: dict[int, tuple[str, int]] = {}  # weight -> (group, size)
        for group in groups:
            made = weights_among(model, group.producers)
            self.makers |= {id(model.get_parameter(member.tensor)): (group.name, group.size) for member, _ in made}
        self.marks: dict[int, tuple[str, int]] = {}
        self.alive: list[Tensor] = []  # as long as a mark stands, its tensor's identity must not be given to another

    def __torch_function__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        if isinstance(result, Tensor) and result.dim() > 1:
            known = self.makers if function in MAPS else self.marks
            mark = next((known[id(each)] for each in [*args, *kwargs.values()] if id(each) in known), None)
            if mark is not None and result.shape[1] == mark[1]:
                self.marks[id(result)] = mark
                self.alive.append(result)
                # the module of relu6 is a clip from 0
                if function in RECTIFIERS or (function is functional.hardtanh and kwargs.get("min_val") == 0):
                    self.see(mark[0], result.detach())
        return result


@torch.no_grad()
def rectified_means(model: nn.Module, groups: list[Group], batches: Batches, measure: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """The mean of a measure of each unit's rectified maps, over all examples, and over the rectifiers if several see the unit.

    Args:
        model: in evaluation mode meanwhile; it is left as it was.
        groups: of this model.
        measure: maps (examples, units, ...) -> numbers (examples, units).

    Returns:
        Group name -> shape (group.size,); a group that reaches no rectifier is left out.

    Raises:
        ValueError: no batch.
    """
    totals: dict[str, Tensor] = {}
    counts: dict[str, int] = {}

    def see(group: str, maps: Tensor) -> None:
        numbers = measure(maps)
        totals[group] = totals.get(group, 0) + numbers.sum(0)
        counts[group] = counts.get(group, 0) + len(numbers)

    empty = True
    with evaluating(model):
        for inputs, _ in batches:
            empty = False
            with _Follow(model, groups, see):
                model(inputs)
    if empty:
        raise ValueError("batches: no calibration data; the units' activations are needed")
    return {group.name: totals[group.name] / counts[group.name] for group in groups if group.name in totals}
