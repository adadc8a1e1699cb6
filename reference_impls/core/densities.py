"""How a network's density is shared out among its layers."""

from collections.abc import Mapping

import torch


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
