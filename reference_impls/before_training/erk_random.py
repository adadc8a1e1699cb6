"""Random pruning: before training, draw each layer's mask at random, at densities of Erdos-Renyi-Kernel (liu2022unreasonable).

Idea: which weights stay matters less than how many stay in each layer. Give small and narrow layers a higher density than
large ones, draw the positions at random, and train that sparse network from scratch. The wider and deeper the dense
network is, the closer the random sparse one comes to it.

Cost: none beyond drawing the masks; no data is looked at.

Implementation details
1. Of the densities that the authors compare, this is ERK: the density of a layer is proportional to the sum of its dimensions,
   kernel size included, over their product; a layer whose share passes 1 stays dense.
2. Only the weights of linear and convolution layers are pruned, as in the authors' code: no biases, no norms.

Deviations: the authors' code keeps each weight independently with its layer's density, so the number that stays is random;
here exactly round(sparsity * n) of all weights go, and each layer's number is its share rounded down or up.
"""

import torch
from torch import nn

from reference_impls.core.amounts import Amount, Sparsity, sparsity
from reference_impls.core.densities import erdos_renyi_kernel, random_masks, whole_numbers
from reference_impls.core.masks import Masks, prunable_weights
from reference_impls.core.training import Batches

UNIT = "weight"
GROUP = "network"
AMOUNTS = (Sparsity,)
NETWORK = "lenet_300_100"
# weights_only is said of their shapes, their values are not looked at; not idempotent: other weights would be drawn
TRAITS = frozenset({"exact_count", "fixed_mask", "identity_at_zero", "weights_only"})


def kept_per_layer(model: nn.Module, amount: Amount) -> dict[str, int]:
    """How many weights each layer keeps.

    Args:
        model: only the shapes of its weights are read.
        amount: the fraction of all linear and convolution weights to prune, in [0, 1).

    Raises:
        ValueError: the amount is no sparsity, a weight is NaN or infinite, or there is nothing to prune.
    """
    asked = sparsity(amount)
    weights = prunable_weights(model)
    sizes = {name: weight.numel() for name, weight in weights.items()}
    total = sum(sizes.values())
    # density of layer l proportional to (n_in + n_out + k_w + k_h) / (n_in * n_out * k_w * k_h)
    densities = erdos_renyi_kernel({name: weight.shape for name, weight in weights.items()}, 1 - asked)
    return whole_numbers({name: density * sizes[name] for name, density in densities.items()}, sizes, total - round(asked * total))


def masks(model: nn.Module, batches: Batches, amount: Amount, *, generator: torch.Generator | None = None) -> Masks:
    """Masks at ERK densities, with positions drawn at random in each layer.

    Args:
        model: at initialization; left as it is.
        batches: not used.
        amount: the fraction of all linear and convolution weights to prune, in [0, 1).
        generator: draws the positions; without it PyTorch's global random state.

    Raises:
        ValueError: as `kept_per_layer`.
    """
    return random_masks(prunable_weights(model), kept_per_layer(model, amount), generator)
