"""Signal propagation: orthogonal weights before SNIP's cut, and again near orthogonal after it (lee2020signal).

Idea: connection sensitivity is a gradient, so it can be trusted only where signals reach all layers alike: where the
singular values of the network's input-output Jacobian lie near 1 (layerwise dynamical isometry). Weights are therefore drawn
orthogonal before the cut. The cut itself breaks that again, and with it the training; a few steps of gradient descent on the
kept weights alone, without data, bring the layers back near orthogonality.

Cost: SNIP's one forward and backward pass over the batches; then per step one product W^T W per layer. No data in that part.

Implementation details
1. Orthogonal draws have gain 1. A kernel (out, in, *kernel) is a matrix with one row per output.
2. The isometry loss is a sum of norms, not of their squares, over layers: each layer's step has the same length, whatever its
   distance. Its matrices hold one column per output. Plain gradient descent with step 0.1, as in the authors' code.
3. Gates are felt in evaluation mode, and all batches given are summed, as in SNIP here.

Deviations: the authors' code takes 10,000 isometry steps, here 1,000 by default; it draws convolutions orthogonal as operators
(which needs no fewer outputs than inputs), here as matrices, which is what its isometry loss measures; it prunes biases too and
draws them anew, here they stay. The paper's unsupervised variant, sensitivity of a loss against uniform targets, is not here.
"""

import copy

import torch
from torch import Tensor, nn

from reference_impls.before_training.snip import connection_sensitivity
from reference_impls.core.amounts import Amount, Sparsity, sparsity
from reference_impls.core.masks import Masks, keep_highest, prunable_weights
from reference_impls.core.training import Batches, HoldMasks, Loss, Train, cross_entropy

UNIT = "weight"
GROUP = "network"
AMOUNTS = (Sparsity,)
NETWORK = "lenet_300_100"
QUICK = {"steps": 20}
# identity_at_zero does not hold, as weights are drawn anew; idempotent does not, for the same reason
TRAITS = frozenset({"exact_count", "fixed_mask"})


@torch.no_grad()
def draw_orthogonal(model: nn.Module, generator: torch.Generator | None = None) -> None:
    """Draw all prunable weights anew, in place: rows or columns orthonormal, whichever are fewer.

    Raises:
        ValueError: a weight is NaN or infinite, or there is nothing to prune.
    """
    for weight in prunable_weights(model).values():
        drawn = torch.empty(weight.shape, dtype=torch.promote_types(weight.dtype, torch.float32))  # no QR in half precision
        weight.copy_(nn.init.orthogonal_(drawn, generator=generator))


def isometry_gap(weight: Tensor) -> Tensor:
    """How far a layer is from preserving lengths: a scalar, 0 where its outputs' weights are orthonormal.

    Args:
        weight: (out, in, *kernel).
    """
    # W as (in * kernel, out)
    w = weight.flatten(1).T
    # ||(C ⊙ W)^T (C ⊙ W) - I||_F
    return torch.linalg.matrix_norm(w.T @ w - torch.eye(w.shape[1], dtype=w.dtype, device=w.device))


def enforce_isometry(model: nn.Module, kept: Masks, *, steps: int = 1000, step: float = 0.1) -> None:
    """Set the pruned weights to zero, and bring the layers near orthogonality by gradient descent on the others, in place.

    Args:
        model: changed.
        kept: mask per weight.
        steps: at least 0.
        step: what a gradient is multiplied by.
    """
    for name, weight in prunable_weights(model).items():
        w = (weight.detach() * kept[name]).requires_grad_()
        for _ in range(steps):
            (gradient,) = torch.autograd.grad(isometry_gap(w * kept[name]), w)
            w = (w.detach() - step * gradient).requires_grad_()
        weight.data.copy_(w.detach())


def prune(
    model: nn.Module,
    batches: Batches,
    amount: Amount,
    *,
    train: Train | None = None,
    evaluate: object = None,
    steps: int = 1000,
    step: float = 0.1,
    loss: Loss = cross_entropy,
    generator: torch.Generator | None = None,
) -> nn.Module:
    """The network with new, orthogonal weights, pruned by connection sensitivity and near isometry again; trained if `train` is given.

    Args:
        batches: (inputs, targets), at least one.
        amount: the fraction of all linear and convolution weights to prune, in [0, 1).
        train: (model, callbacks) -> model; the masks are held by a callback.
        evaluate: not used.
        steps: of gradient descent towards isometry; 0 leaves that part out.
        step: its step size.
        loss: (outputs, targets) -> scalar, whose sensitivity is taken.
        generator: draws the weights; without it PyTorch's global random state.

    Raises:
        ValueError: `amount` is no sparsity, no batch, fewer than 0 steps, a weight is NaN or infinite, or there is nothing to prune.
    """
    asked = sparsity(amount)
    if steps < 0:
        raise ValueError(f"steps: {steps} is below 0")
    work = copy.deepcopy(model)
    draw_orthogonal(work, generator)
    kept = keep_highest(connection_sensitivity(work, batches, loss), asked)
    enforce_isometry(work, kept, steps=steps, step=step)
    return work if train is None else train(work, [HoldMasks(kept)])
