"""Scores become masks: which weights a method may prune, and which of them it keeps."""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from reference_impls.core.amounts import NM, Amount, Sparsity, as_amount

Scores = Mapping[str, Tensor]  # parameter name -> importance, shaped as the weight; higher = keep
Masks = dict[str, Tensor]  # parameter name -> bool, shaped as the weight; True = kept


def prunable_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """The trainable weights that pruning papers count: of linear and convolution layers; no biases, no norms, no embeddings.

    A weight shared by two layers is named and counted once.

    Raises:
        ValueError: the model has none, or one holds NaN or infinity.
    """
    weights: dict[str, nn.Parameter] = {}
    for name, parameter in model.named_parameters():  # yields a shared parameter once
        layer = model.get_submodule(name.rpartition(".")[0])
        if name.endswith("weight") and isinstance(layer, nn.Linear | nn.modules.conv._ConvNd) and parameter.requires_grad:
            if not parameter.isfinite().all():
                raise ValueError(f"model: {name} holds NaN or infinity")
            weights[name] = parameter
    if not weights:
        raise ValueError("model: no trainable linear or convolution weight to prune")
    return weights


def keep_highest(scores: Scores, amount: Amount, group: str = "network") -> Masks:
    """Prune exactly ``round(sparsity * n)`` of each group's n weights, the lowest scores first.

    Of equal scores the one that comes first goes first, so a mask never depends on the sort.

    Args:
        scores: importance per weight.
        amount: a sparsity, or an N:M pattern (which is its own group).
        group: what is compared: "network", "layer", or "row" (the weights into one output).

    Raises:
        ValueError: a score is NaN, the amount is neither, or the input dimension does not divide into groups of m.
    """
    asked = as_amount(amount, Sparsity, NM)
    if any(score.isnan().any() for score in scores.values()):
        raise ValueError("scores: NaN, so no order exists")
    if isinstance(asked, NM):
        return {name: keep_n_of_m(score, asked, name) for name, score in scores.items()}
    if group == "row":
        return {name: _keep_in_rows(score.flatten(1), asked.fraction).view_as(score) for name, score in scores.items()}
    if group == "layer":
        return {name: _keep_in_rows(score.flatten()[None], asked.fraction).view_as(score) for name, score in scores.items()}
    if group != "network":
        raise ValueError(f"group: {group!r} is none of network, layer, row")
    flat = torch.cat([score.flatten() for score in scores.values()])
    parts = _keep_in_rows(flat[None], asked.fraction)[0].split([score.numel() for score in scores.values()])
    return {name: part.view_as(score) for (name, score), part in zip(scores.items(), parts, strict=True)}


def prune_further(scores: Scores, amount: Amount, before: Masks | None, group: str = "network") -> Masks:
    """As `keep_highest`, for a method that prunes in rounds: what was pruned before stays pruned, and counts.

    Args:
        before: the masks of the round before; None in the first round.
    """
    if before is not None:
        scores = {name: score.masked_fill(~before[name], -torch.inf) for name, score in scores.items()}
    return keep_highest(scores, amount, group)


def _keep_in_rows(scores: Tensor, fraction: float) -> Tensor:
    """True for what is kept of each row of a matrix."""
    pruned = round(fraction * scores.shape[1])
    keep = torch.ones_like(scores, dtype=torch.bool)
    if pruned == 0:
        return keep
    # no sort: everything below the k-th lowest score goes, and of those equal to it the first ones, until k are gone
    threshold = scores.kthvalue(pruned, dim=1, keepdim=True).values
    below, equal = scores < threshold, scores == threshold
    left = pruned - below.sum(1, keepdim=True)
    return ~(below | (equal & (equal.cumsum(1) <= left)))


def keep_n_of_m(score: Tensor, pattern: NM, name: str = "weight") -> Tensor:
    """The mask that keeps the n highest of every m consecutive weights along the input dimension (dimension 1).

    Raises:
        ValueError: the input dimension is not divisible by m.
    """
    if score.shape[1] % pattern.m:
        raise ValueError(f"amount: {pattern.n}:{pattern.m} does not fit {name}, whose {score.shape[1]} inputs do not divide by {pattern.m}")
    inputs_last = score.movedim(1, -1)
    groups = inputs_last.reshape(-1, pattern.m)
    keep = _keep_in_rows(groups, 1 - pattern.n / pattern.m)
    return keep.view(inputs_last.shape).movedim(-1, 1).contiguous()


@torch.no_grad()
def apply_masks(model: nn.Module, masks: Masks) -> None:
    """Set the pruned weights to zero, in place.

    Raises:
        ValueError: a mask names no parameter, or has another shape.
    """
    parameters = dict(model.named_parameters())
    for name, mask in masks.items():
        if name not in parameters or parameters[name].shape != mask.shape:
            raise ValueError(f"masks: {name} with shape {tuple(mask.shape)} fits no parameter of the model")
        parameters[name].masked_fill_(~mask, 0)  # multiplying would leave -0.0


def masked(model: nn.Module, masks: Masks) -> nn.Module:
    """A copy of the model whose pruned weights are zero."""
    pruned = copy.deepcopy(model)
    apply_masks(pruned, masks)
    return pruned


def sparsity_of(masks: Masks) -> float:
    """The fraction of all masked weights that is pruned, in [0, 1]."""
    return 1 - sum(int(mask.sum()) for mask in masks.values()) / sum(mask.numel() for mask in masks.values())


def keep_units(scores: Scores, amount: Amount, group: str = "network") -> Masks:
    """Which structural units (filters, channels, heads) stay: as `keep_highest`, but one unit of each layer always stays.

    Args:
        scores: layer or dependency group -> importance of its units, one dimension each.
        amount: the fraction of units to remove.
        group: "network" or "layer".

    Raises:
        ValueError: a score is NaN, the amount is no sparsity, or `group` is neither.
    """
    fraction = as_amount(amount, Sparsity).fraction
    if group == "layer":
        return {name: kept for name, score in scores.items() for kept in keep_units({name: score}, fraction).values()}
    if group != "network":
        raise ValueError(f"group: {group!r} is none of network, layer")
    last = [score == score.max() for score in scores.values()]
    last = [best & (best.cumsum(0) == best.sum()) for best in last]  # of equal scores the one that comes last stays
    flat = torch.cat([score.double() for score in scores.values()])
    if flat.isnan().any():
        raise ValueError("scores: NaN, so no order exists")
    pruned = min(round(fraction * flat.numel()), flat.numel() - len(last))
    keep = torch.ones_like(flat, dtype=torch.bool)
    order = flat.argsort(stable=True)
    keep[order[~torch.cat(last)[order]][:pruned]] = False
    return dict(zip(scores, keep.split([score.numel() for score in scores.values()]), strict=True))
