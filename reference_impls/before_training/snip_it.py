"""SNIP-it: prune before training in rounds, by how elastic the loss is to each weight (verdenius2020pruning).

Idea: one cut by sensitivity may take whole layers, because the ranking is that of the dense network. Prune in a few rounds
instead, rank what is left anew each time, and let the first round take half and each later one half of what is still to go.

Cost: one forward and one backward pass over the batches per round, 7 rounds.

Implementation details
1. The criterion is SNIP's divided by the loss. Within a round that changes no ranking; it makes rounds and networks comparable.
2. Sparsity after round i = 0 ... n is s - (s - 1/2) / 2^i, and then s itself. Below s = 1/2, where that would start above s, the first
   round goes to s at once.
3. Scores are taken in evaluation mode, as in the authors' code: batch norm uses its running statistics.
4. What is pruned stays pruned.

Deviations: the paper's structured form, SNAP-it, ranks whole units by the same schedule and is not here. The authors' code prunes one
weight more than asked and every tie, here exactly round(sparsity * n) go; the losses of all batches given are averaged, where the
code takes a fixed number of batches.
"""

import copy

import torch
from torch import nn

from reference_impls.core.amounts import Amount, Sparsity, sparsity
from reference_impls.core.masks import Masks, Scores, apply_masks, prunable_weights, prune_further
from reference_impls.core.training import Batches, Loss, cross_entropy

UNIT = "weight"
GROUP = "network"
AMOUNTS = (Sparsity,)
NETWORK = "lenet_300_100"
TRAITS = frozenset({"exact_count", "fixed_mask", "identity_at_zero"})  # not idempotent: removing weights moves the gradients


def elasticity(model: nn.Module, batches: Batches, *, loss: Loss = cross_entropy) -> Scores:
    """By how many per cent the loss changes when a weight changes by one per cent, without its sign.

    Args:
        model: left as it is.
        batches: (inputs, targets), at least one.
        loss: (outputs, targets) -> scalar, not 0.

    Raises:
        ValueError: no batch, or the loss does not depend on any weight.
    """
    model = copy.deepcopy(model).eval()
    weights = prunable_weights(model)
    # half precision would round the small scores of a large network to equal ones
    total = [torch.zeros_like(weight, dtype=torch.promote_types(weight.dtype, torch.float32)) for weight in weights.values()]
    losses = []
    for inputs, targets in batches:
        value = loss(model(inputs), targets)
        gradients = torch.autograd.grad(value, list(weights.values()), allow_unused=True, materialize_grads=True)
        total = [t + g for t, g in zip(total, gradients, strict=True)]
        losses.append(value.detach())
    if not any(g.any() for g in total):
        raise ValueError("batches: no calibration data, or the loss depends on no weight")
    # e_j = |w_j / L * dL/dw_j|; the number of batches is in both sums
    return {name: (weight.detach() * g / sum(losses)).abs() for (name, weight), g in zip(weights.items(), total, strict=True)}


def sparsities(final: float, halvings: int) -> list[float]:
    """The sparsity after each round: the way that is left is halved `halvings` times, and then gone to the end.

    Args:
        final: in [0, 1).
        halvings: at least 0.

    Raises:
        ValueError: a negative number of halvings.
    """
    if halvings < 0:
        raise ValueError(f"halvings: {halvings} is below 0")
    start = min(0.5, final)
    # k_i = k - (k - 1/2) * (1/2)^i
    return [final - (final - start) * 0.5**i for i in range(halvings + 1)] + [final]


def masks(model: nn.Module, batches: Batches, amount: Amount, *, halvings: int = 5, loss: Loss = cross_entropy) -> Masks:
    """Keep the most elastic connections, compared over the whole network and anew in each round.

    Args:
        model: at initialization; left as it is.
        batches: (inputs, targets), at least one.
        amount: the fraction of all linear and convolution weights to prune, in [0, 1).
        halvings: rounds between the first, which prunes half, and the last.
        loss: (outputs, targets) -> scalar, not 0.

    Raises:
        ValueError: as `elasticity` and `sparsities`, or the amount is no sparsity.
    """
    pruned, kept = copy.deepcopy(model), None
    for now in sparsities(sparsity(amount), halvings):
        kept = prune_further(elasticity(pruned, batches, loss=loss), now, kept)
        apply_masks(pruned, kept)
    return kept
