"""Lottery ticket: train, prune, set what is left back to its initial values, repeat (frankle2019lottery, section 1).

Idea: a dense network holds a sparse one that trains as well from the same initial values. Training shows which
connections to keep; rewinding them to where they began gives the winning ticket.

Cost: one full training run per round, and one for the ticket itself.

Implementation details
1. Every round prunes the same fraction of what is left, p^(1/n) as the paper writes it, by the magnitude of the trained weights.
2. Weights are compared over the whole network, as the paper does for its deeper networks, and as open_lth does for all.
3. open_lth removes ceil(fraction * remaining) + 1 weights a round; here the counts are exact.
4. Biases, norms and buffers are rewound as well.

Deviations: the paper prunes its small networks layer by layer, and their output layer at half the rate; here all layers
share one ranking. Learning rate and its warm-up, on which tickets of deep networks depend, belong to `train`.
"""

import copy

from torch import nn

from reference_impls.core.amounts import Amount, Sparsity, sparsity
from reference_impls.core.masks import Masks, apply_masks, prunable_weights, prune_further
from reference_impls.core.schedules import sparsities_in_rounds
from reference_impls.core.training import Batches, HoldMasks, Train, needed

UNIT = "weight"
GROUP = "network"
AMOUNTS = (Sparsity,)
NETWORK = "lenet_300_100"
TRAITS = frozenset({"exact_count", "fixed_mask", "identity_at_zero"})  # masks come from training: not weights_only, not idempotent


def smallest_go(trained: nn.Module, amount: Amount, before: Masks | None) -> Masks:
    """The masks of one round: the smallest trained weights go, until `amount` of all is gone."""
    magnitudes = {name: weight.detach().abs() for name, weight in prunable_weights(trained).items()}
    return prune_further(magnitudes, amount, before)


def winning_ticket(model: nn.Module, amount: Amount, train: Train, rounds: int) -> tuple[nn.Module, Masks]:
    """The rewound sparse network, not trained yet, and its masks.

    Args:
        model: at its initialization.
        amount: fraction of all linear and convolution weights to prune.
        train: (model, callbacks) -> model.
        rounds: how often to train, prune and rewind, >= 1.

    Raises:
        ValueError: `amount` or `rounds` out of range, or a model as `prunable_weights` refuses.
    """
    reached_after = sparsities_in_rounds(sparsity(amount), rounds)
    prunable_weights(model)  # refuses what cannot be pruned before the first training run
    # theta = theta_0
    ticket, masks = copy.deepcopy(model), None
    for reached in reached_after:
        # theta_j: theta_0 after j iterations, m held
        trained = train(ticket, [] if masks is None else [HoldMasks(masks)])
        # m: the smallest of theta_j go
        masks = smallest_go(trained, reached, masks)
        # f(x; m * theta_0)
        ticket = copy.deepcopy(model)
        apply_masks(ticket, masks)
    return ticket, masks


def prune(
    model: nn.Module, batches: Batches, amount: Amount, *, train: Train | None = None, evaluate: object = None, rounds: int = 5
) -> nn.Module:
    """The winning ticket, trained.

    Args:
        model: at its initialization.
        batches: not used; the data is in `train`.
        amount: fraction of all linear and convolution weights to prune.
        train: (model, callbacks) -> model; called once per round and once at the end.
        evaluate: not used.
        rounds: how often to train, prune and rewind, >= 1.

    Raises:
        ValueError: as `winning_ticket`, or no `train`.
    """
    ticket, masks = winning_ticket(model, amount, needed(train), rounds)
    return needed(train)(ticket, [HoldMasks(masks)])
