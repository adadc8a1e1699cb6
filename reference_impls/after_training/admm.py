"""ADMM pruning: the number of weights as a hard constraint, and training that is pulled towards it step by step (zhang2018systematic).

Idea: few weights and little loss are two demands that are easy one by one. So there are two copies of the weights: W lowers the loss,
Z has no more nonzero weights than allowed, and a dual variable U adds up how far they are apart. In turn: train W with a square pulling
it to Z - U; set Z to the nearest sparse weights, in closed form the largest of W + U; add what is left of the difference to U. The pull is
not to zero but to a sparse target, which may still change what it holds. At the end W is almost sparse: cutting costs little.

Cost: one training per iteration, and two more numbers per weight while it lasts.

Implementation details
1. Z begins as W and U as 0. In the end the largest |W| stay, and what is left is trained with the mask held.
2. The pull is rho / 2 times the squared distance, the same rho for all layers.
3. The same fraction of every layer goes, where the paper sets a number for each layer.

Deviations: the authors' code was not at hand; 1 is as in a reimplementation, the pull and the projection as in others' accounts of the
method. How long an iteration trains is `train`'s affair; every one begins with a fresh optimizer.
"""

import copy

import torch
from torch import Tensor, nn

from reference_impls.core.amounts import Amount, Sparsity, sparsity
from reference_impls.core.masks import Masks, apply_masks, keep_highest, prunable_weights
from reference_impls.core.training import Batches, Callback, HoldMasks, Train, needed

UNIT = "weight"
GROUP = "layer"
AMOUNTS = (Sparsity,)
NETWORK = "lenet_300_100"
QUICK = {"iterations": 3}
# no idempotent: the network trains in between
TRAITS = frozenset({"exact_count", "fixed_mask", "identity_at_zero"})

Weights = dict[str, Tensor]  # parameter name -> tensor shaped as the weight


def largest(weights: Weights, amount: Amount) -> Masks:
    """True for the weights of largest magnitude of each layer, all but the asked fraction."""
    return keep_highest({name: weight.abs() for name, weight in weights.items()}, amount, "layer")


def project(weights: Weights, amount: Amount) -> Weights:
    """The nearest weights that have, in each layer, the asked fraction of zeros: the largest stay as they are."""
    return {name: weights[name] * mask for name, mask in largest(weights, amount).items()}


class Pull(Callback):
    """Adds the squared distance to the target to the loss."""

    def __init__(self, targets: Weights, duals: Weights, rho: float) -> None:
        self.targets, self.duals, self.rho = targets, duals, rho

    def penalty(self, model: nn.Module) -> Tensor:
        # sum_i rho / 2 ||W_i - Z_i + U_i||^2
        weights = prunable_weights(model)
        return self.rho / 2 * sum((weights[name] - self.targets[name] + dual).square().sum() for name, dual in self.duals.items())


def update(weights: Weights, duals: Weights, amount: Amount) -> tuple[Weights, Weights]:
    """Z and U of the next iteration.

    Args:
        weights: W, just trained.
        duals: U of this iteration; shaped as the weights.
        amount: the fraction of each layer to remove.
    """
    # Z <- the projection of W + U
    targets = project({name: weights[name] + dual for name, dual in duals.items()}, amount)
    # U <- U + W - Z
    return targets, {name: dual + weights[name] - targets[name] for name, dual in duals.items()}


def prune(
    model: nn.Module,
    batches: Batches,
    amount: Amount,
    *,
    train: Train | None = None,
    evaluate: object = None,
    iterations: int = 10,
    rho: float = 1e-2,
) -> nn.Module:
    """The sparse network, trained with its mask held.

    Args:
        model: trained.
        batches: not used; `train` has its own.
        amount: the fraction of every layer's weights to remove.
        train: (model, callbacks) -> model; solves for W once per iteration, and trains what is left.
        evaluate: not used.
        iterations: how often to train W and to update Z and U, >= 1.
        rho: strength of the pull, > 0.

    Raises:
        ValueError: `amount`, `iterations` or `rho` out of range, no `train`, or a weight is NaN or infinite.
    """
    train, asked = needed(train), Sparsity(sparsity(amount))
    if iterations < 1:
        raise ValueError(f"iterations: {iterations} is below 1")
    if not 0 < rho < float("inf"):
        raise ValueError(f"rho: {rho} is not a finite number > 0")
    network = copy.deepcopy(model)
    targets = _values(network)
    duals = {name: torch.zeros_like(weight) for name, weight in targets.items()}
    for _ in range(iterations):
        network = train(network, [Pull(targets, duals, rho)])
        targets, duals = update(_values(network), duals, asked)
    masks = largest(_values(network), asked)
    apply_masks(network, masks)
    return train(network, [HoldMasks(masks)])


def _values(model: nn.Module) -> Weights:
    return {name: weight.detach().clone() for name, weight in prunable_weights(model).items()}
