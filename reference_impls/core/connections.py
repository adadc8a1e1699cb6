"""What methods share that move the connections of a sparse network while it trains."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from reference_impls.core.masks import Masks, apply_masks, keep_highest, prunable_weights
from reference_impls.core.training import Callback


def random_masks(model: nn.Module, densities: Mapping[str, float], generator: torch.Generator | None = None) -> Masks:
    """Connections drawn at random in every prunable weight.

    Args:
        densities: fraction of each weight's entries to keep, in (0, 1], by parameter name.
        generator: of the draw; the default generator if None.
    """
    drawn: Masks = {}
    for name, weight in prunable_weights(model).items():
        score = torch.rand(weight.shape, generator=generator).to(weight.device)
        drawn |= keep_highest({name: score}, 1 - densities[name])
    return drawn


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
    grown = mask.flatten().clone()
    grown[score.masked_fill(mask, -torch.inf).flatten().topk(count).indices] = True
    return grown.view_as(mask)


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
    counts = {name: int(amount + 1e-9) for name, amount in given.items()}  # a whole number may come out a trifle too small
    order = sorted(weights, key=lambda name: counts[name] - given[name])
    for name in [name for name in order if counts[name] < room[name]][: total - sum(counts.values())]:
        counts[name] += 1
    return counts
