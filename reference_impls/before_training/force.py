"""FORCE: prune before training in rounds, by the sensitivity that connections have in the pruned network (dejorge2021progressive).

Idea: SNIP scores each connection in the dense network, but what is trained is the pruned one, where at high sparsities the
gradients are quite different. So ask for the mask whose kept connections are most sensitive once the others are gone, and approach
it in rounds that leave fewer and fewer, scored anew in the network as pruned so far. A pruned connection is scored by the
weight that it would have: it may come back in a later round.

Cost: one forward and one backward pass over the batches per round.

Implementation details
1. Density after round t of T is final^(t/T), the default of the authors' code; its other schedule, a linear one, is not here.
2. Iterative SNIP, the paper's second way (`resurrect=False`): a weight once pruned stays pruned. All else is the same.
3. The scores are taken at the masked network, but multiply the dense network's weights: for a pruned connection that is the
   derivative of the loss by its closed gate.
4. Scores are taken in training mode, as in the authors' code: batch norm uses each batch's own statistics. Gradients are summed over
   the batches (the code averages them, which changes no ranking), the absolute value is taken after the sum.

Deviations: 10 rounds are the default of the authors' code. It draws another random batch each round, here all batches given are used in
every round; it prunes every tie, here exactly round(sparsity * n) go.
"""

import copy

import torch
from torch import nn

from reference_impls.core.amounts import Amount, Sparsity, sparsity
from reference_impls.core.masks import Masks, Scores, apply_masks, keep_highest, prunable_weights, prune_further
from reference_impls.core.schedules import sparsities_in_rounds
from reference_impls.core.training import Batches, Loss, cross_entropy

UNIT = "weight"
GROUP = "network"
AMOUNTS = (Sparsity,)
NETWORK = "lenet_300_100"
TRAITS = frozenset({"exact_count", "fixed_mask", "identity_at_zero"})  # not idempotent: pruned weights are 0, their gates are not felt


def foresight_sensitivity(model: nn.Module, kept: Masks, batches: Batches, *, loss: Loss = cross_entropy) -> Scores:
    """How strongly the loss of the pruned network feels each gate, the closed ones too.

    Args:
        model: the dense network at initialization; left as it is.
        kept: mask per weight; what is False is zero while the scores are taken.
        batches: (inputs, targets), at least one.
        loss: (outputs, targets) -> scalar.

    Raises:
        ValueError: no batch, or the loss of the pruned network does not depend on any weight.
    """
    dense = prunable_weights(model)
    pruned = copy.deepcopy(model).train()
    weights = prunable_weights(pruned)
    apply_masks(pruned, kept)
    # half precision would round the small scores of a large network to equal ones
    total = [torch.zeros_like(weight, dtype=torch.promote_types(weight.dtype, torch.float32)) for weight in weights.values()]
    for inputs, targets in batches:
        gradients = torch.autograd.grad(loss(pruned(inputs), targets), list(weights.values()), allow_unused=True, materialize_grads=True)
        total = [t + g for t, g in zip(total, gradients, strict=True)]
    if not any(g.any() for g in total):
        raise ValueError("batches: no calibration data, or the loss of the pruned network depends on no weight")
    # g_i = |dL/dc_i| at c = |θ_i * dL(θ ⊙ c)/d(θ_i c_i)|
    return {name: (weight.detach() * g).abs() for (name, weight), g in zip(dense.items(), total, strict=True)}


def masks(
    model: nn.Module, batches: Batches, amount: Amount, *, rounds: int = 10, resurrect: bool = True, loss: Loss = cross_entropy
) -> Masks:
    """Keep the connections that are most sensitive in the network that they form, compared over the whole network.

    Args:
        model: at initialization; left as it is.
        batches: (inputs, targets), at least one.
        amount: the fraction of all linear and convolution weights to prune, in [0, 1).
        rounds: how often scores are taken, at least 1; with 1 this is SNIP, in training mode.
        resurrect: pruned weights may come back (FORCE); else they stay pruned (Iterative SNIP).
        loss: (outputs, targets) -> scalar.

    Raises:
        ValueError: as `foresight_sensitivity`, no round, or the amount is no sparsity.
    """
    kept = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in prunable_weights(model).items()}
    for now in sparsities_in_rounds(sparsity(amount), rounds):
        scores = foresight_sensitivity(model, kept, batches, loss=loss)
        kept = keep_highest(scores, now) if resurrect else prune_further(scores, now, kept)
    return kept
