"""SNIP: prune once, before training, by connection sensitivity (lee2019snip, section 4).

Idea: put a gate c = 1 on every weight. How fast the loss changes as a gate closes says how much that connection
matters, before any training: keep the most sensitive, prune the rest, then train as usual.

Cost: one forward and one backward pass over the batches given; no extra memory beyond one gradient.

Implementation details
1. The gate's derivative needs no gate: dL/dc_j = w_j * dL/dw_j at c = 1.
2. Gradients are summed over the batches, and the absolute value is taken after the sum, not per batch; the official
   code takes a single batch.
3. Normalizing changes no ranking; it makes scores of two networks comparable.
4. Scores are taken in evaluation mode, as in the official code: batch norm uses its running statistics.
5. A weight that the loss does not reach (an unused layer) scores 0: it goes first.

Deviations: the official code gates biases too, which stay here; the model comes as it is, where the authors initialize
by variance scaling; recurrent weights, which the paper also prunes, are left out.
"""

import copy

import torch
from torch import nn

from reference_impls.core.amounts import Amount, Sparsity, sparsity
from reference_impls.core.masks import Masks, Scores, keep_highest, prunable_weights
from reference_impls.core.training import Batches, Loss, cross_entropy

UNIT = "weight"
GROUP = "network"
AMOUNTS = (Sparsity,)
NETWORK = "lenet_300_100"
TRAITS = frozenset({"exact_count", "fixed_mask", "identity_at_zero"})  # not idempotent: removing weights moves the gradients


def connection_sensitivity(model: nn.Module, batches: Batches, loss: Loss = cross_entropy) -> Scores:
    """Sensitivity of the loss to each connection; all of them sum to 1.

    Args:
        model: at initialization; left as it is.
        batches: (inputs, targets), at least one.
        loss: (outputs, targets) -> scalar.

    Raises:
        ValueError: no batch, or the loss does not depend on any weight.
    """
    model = copy.deepcopy(model).eval()
    weights = prunable_weights(model)
    # half precision would round the small scores of a large network to equal ones
    total = [torch.zeros_like(weight, dtype=torch.promote_types(weight.dtype, torch.float32)) for weight in weights.values()]
    for inputs, targets in batches:
        gradients = torch.autograd.grad(loss(model(inputs), targets), list(weights.values()), allow_unused=True, materialize_grads=True)
        total = [t + g for t, g in zip(total, gradients, strict=True)]
    # g_j(w) = dL/dc_j at c = 1 = w_j * dL/dw_j
    derivative = {name: weight.detach() * g for (name, weight), g in zip(weights.items(), total, strict=True)}
    norm = sum(d.abs().sum() for d in derivative.values())
    if norm == 0:
        raise ValueError("batches: no calibration data, or the loss depends on no weight")
    # s_j = |g_j(w)| / sum_k |g_k(w)|
    return {name: d.abs() / norm for name, d in derivative.items()}


def masks(model: nn.Module, batches: Batches, amount: Amount, *, loss: Loss = cross_entropy) -> Masks:
    """Keep the connections with the highest sensitivity, compared over the whole network.

    Args:
        model: at initialization; left as it is.
        batches: (inputs, targets), at least one.
        amount: the fraction of all linear and convolution weights to prune, in [0, 1).
        loss: (outputs, targets) -> scalar.

    Raises:
        ValueError: as `connection_sensitivity`, or the amount is no sparsity.
    """
    asked = sparsity(amount)
    return keep_highest(connection_sensitivity(model, batches, loss), asked)
