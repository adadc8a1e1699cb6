"""WoodFisher: prune by an inverse Fisher matrix that is built one gradient at a time, block by block (singh2020woodfisher, authors' code).

Idea: the Optimal Brain Surgeon asks for the inverse Hessian. The empirical Fisher matrix, the mean product of gradients with themselves,
comes close to the Hessian and is a sum of rank-one terms, so its inverse follows from the Woodbury identity without inverting anything.
Blocks along the diagonal keep it small: then even large networks are ranked by what each removal really costs, and the weights that stay
move to make up for all that go.

Cost: one gradient per sample, and samples * block size operations per weight; rounds of it if pruning is gradual.

Implementation details (of the authors' code)
1. A sample's gradient is that of a small batch, to make use of more examples; here each given batch is one sample.
2. F = damping I + mean g g^T; damping is 1e-5. Blocks are consecutive weights of one layer, at most `block` of them.
3. Weights are compared by w^2 / ([F^-1]_qq + 1e-10), over the whole network; what is gone stays gone.
4. All weights that go in a round go at once: their moves, each computed alone, are added up, and what goes is set to zero.
5. Gradients of weights that are gone count as zero.
6. Gradual pruning repeats this along a cubic curve with training in between.

Deviations: biases are neither removed nor moved. The first-order term (their WoodTaylor) and the weighting by FLOPs are left out.
"""

import copy

import torch
from torch import Tensor, nn

from reference_impls.after_training.optimal_brain_surgeon import inverse_hessian
from reference_impls.core.amounts import Amount, Sparsity, sparsity
from reference_impls.core.masks import Masks, apply_masks, prunable_weights, prune_further
from reference_impls.core.schedules import cubic_sparsity
from reference_impls.core.training import Batches, HoldMasks, Loss, Train, cross_entropy, evaluating

UNIT = "weight"
GROUP = "network"
AMOUNTS = (Sparsity,)
NETWORK = "mlp"
# survivors move: not idempotent
TRAITS = frozenset({"exact_count", "fixed_mask", "identity_at_zero"})


def gradients(model: nn.Module, batches: Batches, masks: Masks | None = None, loss: Loss = cross_entropy) -> dict[str, Tensor]:
    """The gradient of each batch's mean loss by every prunable weight: weight name -> (batches, weights), in double precision.

    Args:
        masks: what is gone counts as zero.

    Raises:
        ValueError: no batch.
    """
    weights = prunable_weights(model)
    rows: dict[str, list[Tensor]] = {name: [] for name in weights}
    with evaluating(model), torch.enable_grad():
        for inputs, targets in batches:
            found = torch.autograd.grad(loss(model(inputs), targets), list(weights.values()), materialize_grads=True)
            for name, gradient in zip(weights, found, strict=True):
                kept = gradient if masks is None else gradient * masks[name]
                rows[name].append(kept.flatten().double())
    if not next(iter(rows.values())):
        raise ValueError("batches: none given, so there is no gradient")
    return {name: torch.stack(found) for name, found in rows.items()}


def diagonal_and_product(samples: Tensor, damping: float, block: int, scale: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The diagonal of F^-1, and F^-1 s for a vector s, both over blocks along the diagonal.

    Args:
        samples: gradients, (samples, weights).
        damping: > 0.
        block: weights per block.
        scale: s, (weights,); zeros by default.
    """
    scale = samples.new_zeros(samples.shape[1]) if scale is None else scale
    diagonals, products = [], []
    for part, own in zip(samples.split(block, 1), scale.split(block), strict=True):
        # F_{n+1}^-1 = F_n^-1 - F_n^-1 g g^T F_n^-1 / (N + g^T F_n^-1 g), F_0^-1 = I / damping
        inverse = inverse_hessian(iter([part]), len(samples), damping)
        diagonals.append(inverse.diagonal())
        products.append(inverse @ own)
    return torch.cat(diagonals), torch.cat(products)


@torch.no_grad()
def prune_once(
    model: nn.Module, samples: dict[str, Tensor], amount: Amount, before: Masks | None = None, *, damping: float = 1e-5, block: int = 1000
) -> Masks:
    """Prunes the model in place by one estimate of the Fisher matrix; gives back the masks of what stays.

    Args:
        model: the weights are moved and pruned.
        samples: from `gradients`.
        amount: the fraction of all prunable weights that is gone afterwards.
        before: what stayed in the round before.
        damping: of the Fisher matrix, > 0.
        block: weights per block, >= 1.
    """
    weights = prunable_weights(model)
    diagonals = {name: diagonal_and_product(samples[name], damping, block)[0].view_as(weight) for name, weight in weights.items()}
    # w_q^2 / [F^-1]_qq
    scores = {name: weight.double().square() / (diagonals[name] + 1e-10) for name, weight in weights.items()}
    masks = prune_further(scores, amount, before)
    for name, weight in weights.items():
        going = ~masks[name] if before is None else before[name] & ~masks[name]
        # dw = - sum_q w_q / [F^-1]_qq F^-1 e_q
        moves = torch.where(going, weight / diagonals[name], 0.0).flatten()
        weight.sub_(diagonal_and_product(samples[name], damping, block, moves)[1].view_as(weight))
    apply_masks(model, masks)
    return masks


def prune(
    model: nn.Module,
    batches: Batches,
    amount: Amount,
    *,
    train: Train | None = None,
    evaluate: object = None,
    rounds: int = 1,
    damping: float = 1e-5,
    block: int = 1000,
    loss: Loss = cross_entropy,
) -> nn.Module:
    """A copy of the model, pruned in rounds; after each it is trained if `train` is given.

    Args:
        model: trained; gradients are taken in evaluation mode.
        batches: each is one sample of the Fisher matrix.
        amount: the fraction of all linear and convolution weights to prune.
        train: (model, callbacks) -> model.
        evaluate: not used.
        rounds: 1 = one-shot; more follow a cubic curve to the amount.
        damping: added to the diagonal of the Fisher matrix, > 0.
        block: the most weights of a block along its diagonal, >= 1.
        loss: (outputs, targets) -> mean over the examples.

    Raises:
        ValueError: an argument is outside its range, no batch, or nothing to prune.
    """
    final = sparsity(amount)
    for name, value in (("rounds", rounds), ("block", block)):
        if value < 1:
            raise ValueError(f"{name}: {value} is below 1")
    if not damping > 0:
        raise ValueError(f"damping: {damping} is not above 0")
    network, masks = copy.deepcopy(model), None
    for done in range(1, rounds + 1):
        samples = gradients(network, batches, masks, loss)
        masks = prune_once(network, samples, cubic_sparsity(done, 0, rounds, final), masks, damping=damping, block=block)
        network = network if train is None else train(network, [HoldMasks(masks)])
    return network
