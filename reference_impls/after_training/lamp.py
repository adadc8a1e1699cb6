"""LAMP: magnitude pruning whose global score says how much of what is left of its layer a weight carries (lee2021layer).

Idea: one threshold over all layers empties layers of small weights, and a rate per layer has to be found by hand. A weight's
square, divided by the squares of all weights of its layer that are not smaller, can be compared between layers: it is the
relative damage that the layer suffers if this weight goes after all smaller ones.

Cost: one sort of each layer's weights and one selection over the network; no data.

Implementation details
1. Weights are sorted in ascending order within a layer; of equal ones the first counts as the smaller.
2. The largest weight of each layer has the score 1, the highest there is, so no layer is emptied while another has more than one.
3. The authors' code divides by the layer's sum minus a running sum, which loses the digits of the largest weights; here the sum
   runs from the largest weight down, in double precision.
4. Within a layer the scores order weights as their magnitudes do.

Deviations: the authors alternate pruning and retraining; this module gives the mask of one round. As masked weights are zero and
score 0, it can be called again on the retrained network with a larger amount.
"""

import torch
from torch import Tensor, nn

from reference_impls.core.amounts import Amount, Sparsity, sparsity
from reference_impls.core.masks import Masks, keep_highest, prunable_weights
from reference_impls.core.training import Batches

UNIT = "weight"
GROUP = "network"
AMOUNTS = (Sparsity,)
NETWORK = "lenet_300_100"
TRAITS = frozenset({"exact_count", "fixed_mask", "idempotent", "identity_at_zero", "weights_only"})


def lamp_score(weight: Tensor) -> Tensor:
    """The score of each weight of a layer, in [0, 1], shaped as the weight, in double precision.

    Args:
        weight: of any shape.
    """
    squares, order = weight.detach().double().square().flatten().sort(stable=True)
    rest = squares.flip(0).cumsum(0).flip(0)
    # score(u) = W[u]^2 / sum_{v >= u} W[v]^2, W sorted in ascending order
    score = squares / torch.where(rest > 0, rest, 1)  # in a layer of zeros alone every score is 0
    return torch.empty_like(score).scatter_(0, order, score).view_as(weight)


def masks(model: nn.Module, batches: Batches, amount: Amount) -> Masks:
    """The weights that stay: those with the highest scores of the whole network.

    Args:
        model: trained.
        batches: not used.
        amount: the fraction of all linear and convolution weights to prune.

    Raises:
        ValueError: `amount` is no sparsity or out of range, nothing to prune, or NaN or infinite weights.
    """
    fraction = sparsity(amount)
    return keep_highest({name: lamp_score(weight) for name, weight in prunable_weights(model).items()}, fraction)
