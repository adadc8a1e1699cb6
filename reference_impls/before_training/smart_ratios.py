"""Random tickets: before training, prune at random by fixed ratios that fall from the first layer to the last (su2020sanity).

Idea: what masks found at initialization are good for is the number of weights that they keep in each layer; shuffled within
their layers they do as well. So no data is needed: keep a share that falls quadratically with depth, draw the positions
at random, and train.

Cost: none beyond drawing the masks; no data is looked at.

Implementation details
1. Of L layers the l-th keeps a share proportional to (L - l + 1)^2 + (L - l + 1). For networks of the VGG kind the authors'
   code divides that by l^2 as well; `steeper` does so.
2. Linear layers keep a fixed share, 0.3; convolutions share what is left of the whole network's number. Linear layers are
   numbered among the others, so that they count for the depth.
3. Where a share passes 1, the layer stays dense, and what it could not keep goes on to the next convolution, and so on.

Deviations: exactly round(sparsity * n) of all weights go, where the authors' code rounds each layer's number down. At low
sparsities, where all convolutions are dense, what is left over goes to the linear layers, in order. A network without
convolutions, which the code cannot prune, has its linear layers treated as convolutions are. The paper's hybrid tickets, the same
ratios with the largest weights of a trained network, are not here.
"""

import torch
from torch import nn

from reference_impls.core.amounts import Amount, Sparsity, sparsity
from reference_impls.core.densities import random_masks, whole_numbers
from reference_impls.core.masks import Masks, prunable_weights
from reference_impls.core.training import Batches

UNIT = "weight"
GROUP = "network"
AMOUNTS = (Sparsity,)
NETWORK = "resnet8"
# weights_only is said of their shapes, their values are not looked at; not idempotent: other weights would be drawn
TRAITS = frozenset({"exact_count", "fixed_mask", "identity_at_zero", "weights_only"})


def kept_per_layer(model: nn.Module, amount: Amount, *, linear_density: float = 0.3, steeper: bool = False) -> dict[str, int]:
    """How many weights each layer keeps.

    Args:
        model: only the shapes of its weights are read.
        amount: the fraction of all linear and convolution weights to prune, in [0, 1).
        linear_density: the share that linear layers keep, in [0, 1].
        steeper: divide the shares by the squared depth.

    Raises:
        ValueError: the amount is no sparsity, or so high that the linear layers' share alone is more than what may stay; a share
            outside [0, 1]; a weight is NaN or infinite, or there is nothing to prune.
    """
    asked = sparsity(amount)
    if not 0 <= linear_density <= 1:
        raise ValueError(f"linear_density: {linear_density} is not in [0, 1]")
    weights = prunable_weights(model)
    sizes = {name: weight.numel() for name, weight in weights.items()}
    total = sum(sizes.values()) - round(asked * sum(sizes.values()))
    linear = [name for name in weights if isinstance(model.get_submodule(name.rpartition(".")[0]), nn.Linear)]
    if len(linear) == len(sizes):
        linear = []
    targets = {name: linear_density * sizes[name] for name in linear}
    left = total - sum(targets.values())
    if left < 0:
        raise ValueError(f"amount: {asked} leaves {total} weights, fewer than the share {linear_density} of the linear layers")
    # p_l proportional to (L - l + 1)^2 + (L - l + 1), over l^2 if steeper; L = last, l = depth
    last = len(sizes)
    share = {name: ((last - depth + 1) ** 2 + (last - depth + 1)) / (depth**2 if steeper else 1) for depth, name in enumerate(sizes, 1)}
    convolutions = [name for name in sizes if name not in linear]
    scale = left / sum(share[name] * sizes[name] for name in convolutions)
    over = 0.0
    for name in convolutions + linear:
        wanted = targets.get(name, scale * share[name] * sizes[name]) + over
        targets[name] = min(wanted, sizes[name])
        over = wanted - targets[name]
    return whole_numbers({name: targets[name] for name in sizes}, sizes, total)


def masks(
    model: nn.Module,
    batches: Batches,
    amount: Amount,
    *,
    linear_density: float = 0.3,
    steeper: bool = False,
    generator: torch.Generator | None = None,
) -> Masks:
    """Masks at the smart ratios, with positions drawn at random in each layer.

    Args:
        model: at initialization; left as it is.
        batches: not used.
        amount: the fraction of all linear and convolution weights to prune, in [0, 1).
        linear_density: the share that linear layers keep, in [0, 1].
        steeper: divide the shares by the squared depth, as the authors do for networks of the VGG kind.
        generator: draws the positions; without it PyTorch's global random state.

    Raises:
        ValueError: as `kept_per_layer`.
    """
    return random_masks(prunable_weights(model), kept_per_layer(model, amount, linear_density=linear_density, steeper=steeper), generator)
