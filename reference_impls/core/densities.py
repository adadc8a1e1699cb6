"""How a network's density is shared out among its layers, and masks drawn at random with the numbers that follow."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor


def erdos_renyi_kernel(shapes: Mapping[str, torch.Size], density: float) -> dict[str, float]:
    """Density per layer, proportional to the sum of its dimensions over their product (evci2020rigging, section 3).

    A layer whose share would exceed 1 stays dense, and the others share what is left; the weighted mean is `density`.

    Args:
        shapes: weight shapes (out, in, *kernel).
        density: fraction of all weights to keep, in (0, 1].

    Raises:
        ValueError: `density` is outside (0, 1].
    """
    if not 0 < density <= 1:
        raise ValueError(f"density: {density} is not in (0, 1]")
    size = {name: shape.numel() for name, shape in shapes.items()}
    # (n_in + n_out + k_w + k_h) / (n_in * n_out * k_w * k_h)
    share = {name: sum(shape) / shape.numel() for name, shape in shapes.items()}
    dense: set[str] = set()
    while True:
        to_keep = density * sum(size.values()) - sum(size[name] for name in dense)
        sparse_weight = sum(share[name] * size[name] for name in shapes if name not in dense)
        scale = to_keep / sparse_weight if sparse_weight else 0.0
        over = {name for name in shapes if name not in dense and scale * share[name] > 1}
        if not over:
            return {name: 1.0 if name in dense else scale * share[name] for name in shapes}
        dense |= over


def whole_numbers(targets: Mapping[str, float], sizes: Mapping[str, int], total: int) -> dict[str, int]:
    """How many weights each layer keeps: its target rounded down or up, so that together they are exactly `total`.

    The layers with the largest fractional parts are rounded up, of equal ones the first.

    Args:
        targets: layer -> weights to keep, not whole; they sum to `total` within rounding.
        sizes: layer -> weights it has; no layer keeps more.
        total: of all layers.
    """
    targets = {name: min(round(target, 6), sizes[name]) for name, target in targets.items()}  # 2.9999999 is 3
    counts = {name: math.floor(target) for name, target in targets.items()}
    missing = total - sum(counts.values())
    for name in sorted(targets, key=lambda name: counts[name] - targets[name])[: max(missing, 0)]:
        counts[name] += 1
    return counts


def random_masks(weights: Mapping[str, Tensor], counts: Mapping[str, int], generator: torch.Generator | None = None) -> dict[str, Tensor]:
    """Masks that keep `counts[name]` weights of each layer, every choice of them equally likely.

    Args:
        weights: layer -> weight; only shape and device are read.
        counts: layer -> weights to keep.
        generator: draws the positions; without it PyTorch's global random state.
    """
    masks = {}
    for name, weight in weights.items():
        order = torch.randperm(weight.numel(), generator=generator, device=generator.device if generator else "cpu")
        masks[name] = (order < counts[name]).view_as(weight).to(weight.device)
    return masks
