"""GraSP: prune once, before training, so that the gradient stays strong (wang2020picking).

Idea: a network that is to be trained needs gradient flow g^T g more than a low loss. A weight's removal changes that
flow by about -θ * (Hg), with the Hessian H and gradient g of the loss: prune the weights whose removal lowers the flow
least (or raises it most), then train as usual.

Cost: two gradients and one Hessian-gradient product over the batches given, about five forward passes; the Hessian
itself is never built.

Implementation details
1. The official code prunes the highest S(-θ) = -θ * Hg. Scores here mean "higher = keep", so they are θ * Hg with its
   sign: no absolute value, a weight whose removal would raise the gradient flow goes first.
2. Outputs are divided by a temperature T = 200 before the loss, as in the official code, so that the softmax at
   initialization is smooth.
3. g is summed over all batches first; each batch's Hessian is then multiplied by that sum. The official code draws
   25 examples of each class, sorts them by class and halves them into two batches.
4. Scores are taken in training mode, as in the official code: batch norm uses each batch's own statistics.
5. The official code also divides by the absolute sum of all scores, which changes no ranking.

Deviations: the batches come as they are, not balanced by class; the official code draws linear layers anew before
scoring, here the model is scored as it comes.
"""

import copy

import torch
from torch import Tensor, nn

from reference_impls.core.amounts import Amount, Sparsity, sparsity
from reference_impls.core.masks import Masks, Scores, keep_highest, prunable_weights
from reference_impls.core.training import Batches, Loss, cross_entropy

UNIT = "weight"
GROUP = "network"
AMOUNTS = (Sparsity,)
NETWORK = "lenet_300_100"
TRAITS = frozenset({"exact_count", "fixed_mask", "identity_at_zero"})  # not idempotent: removing weights moves gradient and Hessian


def gradient_flow_share(model: nn.Module, batches: Batches, *, loss: Loss = cross_entropy, temperature: float = 200.0) -> Scores:
    """What each weight adds to the gradient flow: θ * Hg; negative where its removal would raise the flow.

    Args:
        model: at initialization; left as it is.
        batches: (inputs, targets), at least one.
        loss: (outputs / temperature, targets) -> scalar, twice differentiable.
        temperature: what the outputs are divided by, above 0.

    Raises:
        ValueError: no batch, a temperature that is not above 0, or the loss does not depend on any weight.
    """
    if not temperature > 0:
        raise ValueError(f"temperature: {temperature} is not above 0")
    model = copy.deepcopy(model).train()
    weights = prunable_weights(model)
    theta = list(weights.values())

    def derivative(of: Tensor, keep_graph: bool = False) -> tuple[Tensor, ...]:
        return torch.autograd.grad(of, theta, create_graph=keep_graph, allow_unused=True, materialize_grads=True)

    # g = dL/dθ
    g = [torch.zeros_like(weight) for weight in theta]
    for inputs, targets in batches:
        g = [total + part for total, part in zip(g, derivative(loss(model(inputs) / temperature, targets)), strict=True)]
    if not any(part.any() for part in g):
        raise ValueError("batches: no calibration data, or the loss depends on no weight")
    # Hg = d(g(θ)^T g)/dθ, the second g held constant
    hg = [torch.zeros_like(weight) for weight in theta]
    for inputs, targets in batches:
        g_theta = derivative(loss(model(inputs) / temperature, targets), keep_graph=True)
        product = sum((moving * fixed).sum() for moving, fixed in zip(g_theta, g, strict=True))
        hg = [total + part for total, part in zip(hg, derivative(product), strict=True)]
    # -S(-θ) = θ * Hg
    return {name: weight.detach() * part for (name, weight), part in zip(weights.items(), hg, strict=True)}


def masks(model: nn.Module, batches: Batches, amount: Amount, *, loss: Loss = cross_entropy, temperature: float = 200.0) -> Masks:
    """Keep the weights that add most to the gradient flow, compared over the whole network.

    Args:
        model: at initialization; left as it is.
        batches: (inputs, targets), at least one.
        amount: the fraction of all linear and convolution weights to prune, in [0, 1).
        loss: (outputs / temperature, targets) -> scalar, twice differentiable.
        temperature: what the outputs are divided by, above 0.

    Raises:
        ValueError: as `gradient_flow_share`, or the amount is no sparsity.
    """
    asked = sparsity(amount)
    return keep_highest(gradient_flow_share(model, batches, loss=loss, temperature=temperature), asked)
