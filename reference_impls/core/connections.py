"""What methods share that move the connections of a sparse network while it trains."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from reference_impls.core.densities import random_masks, whole_numbers
from reference_impls.core.masks import Masks, apply_masks, prunable_weights
from reference_impls.core.training import Callback


def random_connections(model: nn.Module, densities: Mapping[str, float], generator: torch.Generator | None = None) -> Masks:
    """Connections drawn at random in every prunable weight.

    Args:
        densities: fraction of each weight's entries to keep, in (0, 1], by parameter name.
        generator: of the draw; the default generator if None.
    """
    weights = prunable_weights(model)
    return random_masks(weights, {name: round(densities[name] * weight.numel()) for name, weight in weights.items()}, generator)


def hold(model: nn.Module, optimizer: torch.optim.Optimizer, masks: Masks) -> None:
    """Set absent weights to zero, and what the optimizer remembers of them: a connection that comes later starts without a past."""
    apply_masks(model, masks)
    for name, mask in masks.items():
        for state in optimizer.state.get(model.get_parameter(name), {}).values():
            if isinstance(state, Tensor) and state.shape == mask.shape:
                state.masked_fill_(~mask, 0)


class Connections(Callback):
    """Keeps a network sparse while it trains; a method says in `move` when its connections change, and how.

    Attributes:
        masks: the connections now.
        step: optimizer steps done.
    """

    def __init__(self, masks: Masks) -> None:
        self.masks = masks
        self.step = 0

    def start(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer
        apply_masks(model, self.masks)

    def after_step(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.step += 1
        hold(model, optimizer, self.masks)


def drop_lowest(mask: Tensor, score: Tensor, count: int) -> Tensor:
    """The mask without its `count` present connections of lowest score; of equal ones the first go.

    Args:
        mask: True = present.
        score: shaped as the mask.
        count: at most the number of present ones.
    """
    kept = mask.flatten().clone()
    kept[score.masked_fill(~mask, torch.inf).flatten().argsort(stable=True)[:count]] = False
    return kept.view_as(mask)


def grow_highest(mask: Tensor, score: Tensor, count: int) -> Tensor:
    """The mask with the `count` absent connections of highest score besides; of equal ones the first come.

    Args:
        mask: True = present.
        score: shaped as the mask.
        count: at most the number of absent ones.
    """
    grown = mask.flatten().clone()
    grown[score.masked_fill(mask, -torch.inf).flatten().argsort(descending=True, stable=True)[:count]] = True
    return grown.view_as(mask)


def grow_random(mask: Tensor, count: int, generator: torch.Generator | None = None, avoided: Tensor | None = None) -> Tensor:
    """The mask with `count` more connections, drawn from all that are absent.

    Args:
        mask: True = present.
        count: at most the number of absent ones.
        avoided: drawn only where no other place is left; shaped as the mask.
    """
    score = torch.rand(mask.shape, generator=generator).to(mask.device)
    if avoided is not None:
        score[avoided] -= 1
    return grow_highest(mask, score, count)


def share_out(total: int, weights: Mapping[str, float], room: Mapping[str, int]) -> dict[str, int]:
    """A whole number for each name, in proportion to the weights, none above its room; together `total`.

    What a full name cannot take goes to the others in proportion; what rounding leaves goes one by one to the largest remainders.

    Args:
        total: at most the sum of the room.
        weights: >= 0.
    """
    given: dict[str, float] = dict.fromkeys(weights, 0.0)
    open_names = list(weights)
    while True:
        left = total - sum(given[name] for name in weights if name not in open_names)
        whole = sum(weights[name] for name in open_names)
        for name in open_names:
            given[name] = left * (weights[name] / whole if whole else 1 / len(open_names))
        full = [name for name in open_names if given[name] > room[name]]
        if not full:
            break
        for name in full:
            given[name] = room[name]
        open_names = [name for name in open_names if name not in full]
    return whole_numbers(given, room, total)
