"""ProsPr: prune before training, by how a gate at the start changes the loss after the first steps of training (alizadeh2022prospect).

Idea: sensitivity at initialization looks at the loss before any training, but what is wanted is a network that trains well. So
put gates c = 1 on the weights, train a few steps, and differentiate the loss after them by the gates at the start: through all steps,
second derivatives included. The gates with the smallest meta-gradients close.

Cost: `steps` + 1 forward and backward passes, and one more backward pass through all of them; memory for `steps` + 1 forward passes.

Implementation details
1. Gates act once, on the initial weights; the steps then train what comes out, biases and norms too.
2. Every step takes the next batch, the loss at the end the one after; from the last batch on the first comes again.
3. 3 steps of plain gradient descent with learning rate 0.1 are the defaults of the authors' code, which then stays on one batch
   unless it is told to take new ones. Momentum is the buffer of PyTorch's SGD: m <- momentum * m + gradient.
4. Everything runs in training mode, as in the authors' code: batch norm uses each batch's own statistics.

Deviations: in the authors' code the first step's momentum buffer is cut from the graph, here nothing is; its first-order variant, for
networks whose graph does not fit into memory, and its structured gates are not here. It rounds what it keeps up, here
exactly round(sparsity * n) go.
"""

import copy
import itertools

import torch
from torch import nn
from torch.func import functional_call

from reference_impls.core.amounts import Amount, Sparsity, sparsity
from reference_impls.core.masks import Masks, Scores, keep_highest, prunable_weights
from reference_impls.core.training import Batches, Loss, cross_entropy

UNIT = "weight"
GROUP = "network"
AMOUNTS = (Sparsity,)
NETWORK = "lenet_300_100"
TRAITS = frozenset({"exact_count", "fixed_mask", "identity_at_zero"})  # not idempotent: removing weights moves the meta-gradients


def meta_gradients(
    model: nn.Module, batches: Batches, *, steps: int = 3, learning_rate: float = 0.1, momentum: float = 0.0, loss: Loss = cross_entropy
) -> Scores:
    """How strongly the loss after the first training steps feels each gate at their start.

    Args:
        model: at initialization; left as it is.
        batches: (inputs, targets), at least one.
        steps: training steps before the loss is taken, at least 0; with 0 this is connection sensitivity.
        learning_rate: of these steps.
        momentum: of these steps, in [0, 1).
        loss: (outputs, targets) -> scalar, twice differentiable.

    Raises:
        ValueError: no batch, fewer than 0 steps, or the loss does not depend on any weight.
    """
    if steps < 0:
        raise ValueError(f"steps: {steps} is below 0")
    model = copy.deepcopy(model).train()
    weights = prunable_weights(model)
    gates = {name: torch.ones_like(weight, requires_grad=True) for name, weight in weights.items()}
    # w_0 = c ⊙ w_init
    w = {name: p * gates[name] if name in gates else p for name, p in model.named_parameters() if p.requires_grad}
    moving = {name: torch.zeros_like(p) for name, p in w.items()}
    taken = list(itertools.islice(itertools.cycle(batches), steps + 1))
    if not taken:
        raise ValueError("batches: no calibration data")
    for inputs, targets in taken[:-1]:
        value = loss(functional_call(model, w, (inputs,)), targets)
        gradients = torch.autograd.grad(value, list(w.values()), create_graph=True, allow_unused=True, materialize_grads=True)
        # w_{t+1} = w_t - α m_{t+1}, m_{t+1} = μ m_t + dL(w_t; D_t)/dw_t
        moving = {name: momentum * m + g for (name, m), g in zip(moving.items(), gradients, strict=True)}
        w = {name: p - learning_rate * moving[name] for name, p in w.items()}
    inputs, targets = taken[-1]
    # dL(w_M; D_M)/dc at c = 1
    value = loss(functional_call(model, w, (inputs,)), targets)
    pull = torch.autograd.grad(value, list(gates.values()), allow_unused=True, materialize_grads=True)
    if not any(g.any() for g in pull):
        raise ValueError("batches: the loss depends on no weight")
    return {name: g.abs() for name, g in zip(gates, pull, strict=True)}


def masks(
    model: nn.Module,
    batches: Batches,
    amount: Amount,
    *,
    steps: int = 3,
    learning_rate: float = 0.1,
    momentum: float = 0.0,
    loss: Loss = cross_entropy,
) -> Masks:
    """Keep the weights whose gates the loss after the first steps feels most, compared over the whole network.

    Args:
        model: at initialization; left as it is.
        batches: (inputs, targets), at least one.
        amount: the fraction of all linear and convolution weights to prune, in [0, 1).
        steps: training steps before the loss is taken, at least 0.
        learning_rate: of these steps.
        momentum: of these steps, in [0, 1).
        loss: (outputs, targets) -> scalar, twice differentiable.

    Raises:
        ValueError: as `meta_gradients`, or the amount is no sparsity.
    """
    asked = sparsity(amount)
    scores = meta_gradients(model, batches, steps=steps, learning_rate=learning_rate, momentum=momentum, loss=loss)
    return keep_highest(scores, asked)
