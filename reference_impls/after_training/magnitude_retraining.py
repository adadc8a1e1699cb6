"""Magnitude pruning with retraining: cut the small weights, train the rest again, repeat (han2015learning).

Idea: a trained weight near zero can go, if the others may adapt. Each layer has its own threshold, a quality parameter
times the standard deviation of the layer's weights; what is cut stays cut, and the survivors keep their trained values.

Cost: one sort of the weights and one training run per round; no calibration data.

Implementation details
1. One quality parameter q serves all layers: |w| < q * sigma is |w| / sigma < q, so the asked number of weights goes by
   sorting |w| / sigma over the whole network, and q is where the sort is cut.
2. sigma is taken over the layer's surviving weights, so that the zeros of earlier rounds do not shrink it.
3. Survivors go on from their trained values; starting them afresh is another method (frankle2019lottery).
4. Each round removes the same fraction of what is left.

Deviations: the authors also tune q per layer by a sensitivity scan, lower the dropout rate as connections go, and drop
neurons that have lost all inputs or outputs; how they space the rounds is not stated. Learning rate, L2 penalty and
dropout belong to `train`.
"""

import copy

import torch
from torch import nn

from reference_impls.core.amounts import Amount, Sparsity, sparsity
from reference_impls.core.masks import Masks, Scores, prunable_weights, prune_further
from reference_impls.core.schedules import sparsities_in_rounds
from reference_impls.core.training import Batches, HoldMasks, Train, needed

UNIT = "weight"
GROUP = "network"
AMOUNTS = (Sparsity,)
NETWORK = "lenet_300_100"
TRAITS = frozenset({"exact_count", "fixed_mask", "identity_at_zero"})  # training moves the weights: not idempotent, not weights_only


@torch.no_grad()
def relative_magnitude(model: nn.Module, masks: Masks | None = None) -> Scores:
    """|w| in standard deviations of the layer's surviving weights: the quality parameter at which the weight would go.

    Args:
        masks: what survives so far; everything if None.
    """
    scores = {}
    for name, weight in prunable_weights(model).items():
        survivors = weight if masks is None else weight[masks[name]]
        sigma = survivors.std(correction=0)
        # |w| < q * sigma; a layer whose weights are all equal has sigma = 0, and no threshold reaches it
        scores[name] = (weight.abs() / sigma).nan_to_num(nan=0.0, posinf=torch.inf)
    return scores


def prune(
    model: nn.Module, batches: Batches, amount: Amount, *, train: Train | None = None, evaluate: object = None, rounds: int = 3
) -> nn.Module:
    """The model with its lowest relative magnitudes cut, retrained after every round.

    Args:
        model: trained.
        batches: not used; the data is in `train`.
        amount: fraction of all linear and convolution weights to prune.
        train: (model, callbacks) -> model; called after each round.
        evaluate: not used.
        rounds: how often to prune and retrain, >= 1.

    Raises:
        ValueError: `amount` or `rounds` out of range, no `train`, or a model as `prunable_weights` refuses.
    """
    reached_after = sparsities_in_rounds(sparsity(amount), rounds)
    train = needed(train)
    network, masks = copy.deepcopy(model), None
    for reached in reached_after:
        masks = prune_further(relative_magnitude(network, masks), reached, masks)
        network = train(network, [HoldMasks(masks)])
    return network
