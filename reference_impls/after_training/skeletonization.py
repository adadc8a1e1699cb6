"""Skeletonization: trim the hidden units without which the error would hardly rise, train on, and trim again (mozer1988skeletonization).

Idea: give each unit an attentional strength, a factor on what it sends on: 0 means the unit is gone, 1 that it is there. How much the
error would rise without the unit is estimated by the derivative of the error by that strength, at strength 1.

Cost: one forward and one backward pass over the batches per round, and one training run per round.

Implementation details
1. The network trains with any loss, but relevance is taken with the linear error, the sum of |target - output|: the derivative of
   the squared error vanishes where the patterns are learned, and with it every relevance.
2. A strength multiplies all that a unit sends on, so its derivative is the sum of weight times gradient over the outgoing weights.
3. Relevance is averaged over time: 0.8 of what it was plus 0.2 of the present one, batch after batch.
4. A unit of negative relevance harms, and goes before one that does nothing.

Deviations: outputs are the class probabilities, where the paper has logistic output units; input units, which the paper trims as well,
stay; the paper trims unit by unit, here each round removes the same fraction of what is left. Filters count as units.
"""

import torch
from torch import Tensor, nn

from reference_impls.core.amounts import Amount, Sparsity
from reference_impls.core.groups import Group
from reference_impls.core.masks import Scores
from reference_impls.core.rounds import remove_in_rounds
from reference_impls.core.structures import per_unit, weights_among
from reference_impls.core.training import Batches, Loss, Train, evaluating

UNIT = "neuron"
GROUP = "network"
AMOUNTS = (Sparsity,)
NETWORK = "convnet"
# idempotent does not hold: the least relevant of what is left would go
TRAITS = frozenset({"exact_count", "identity_at_zero", "shrinks"})
KEPT = 0.8  # of the running average, per batch


def linear_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean over the examples of sum_j |t_j - o_j|; o are the class probabilities, t is 1 for the target class."""
    t = nn.functional.one_hot(targets, outputs.shape[-1])
    # E = sum_p sum_j |t_pj - o_pj|
    return (t - outputs.softmax(-1)).abs().sum(-1).mean()


def relevance(model: nn.Module, groups: list[Group], batches: Batches, loss: Loss = linear_error) -> Scores:
    """How much the error is estimated to rise without each unit: group name -> (units,); negative where it would fall.

    Args:
        groups: of this model; one that no weight reads is left out.
        batches: (inputs, targets), at least one; the last ones count most.
        loss: (outputs, targets) -> the error that relevance is about.

    Raises:
        ValueError: no batch.
    """
    readers = {group: found for group in groups if (found := [member for member, _ in weights_among(model, group.consumers)])}
    weights = {member.tensor: model.get_parameter(member.tensor) for found in readers.values() for member in found}
    average: dict[str, Tensor] = {}
    with evaluating(model), torch.enable_grad():
        for inputs, targets in batches:
            gradients = torch.autograd.grad(loss(model(inputs), targets), list(weights.values()), allow_unused=True, materialize_grads=True)
            products = {name: (w * g).detach() for (name, w), g in zip(weights.items(), gradients, strict=True)}
            for group, found in readers.items():
                sent = {m: products[m.tensor].movedim(m.dim, -1).reshape(-1, len(m.units)).sum(0) for m in found}
                # rho_i = - dE/d alpha_i at alpha = 1, with dE/d alpha_i = sum_j w_ji dE/dw_ji
                rho = -sum(per_unit(m, value, group.size) for m, value in sent.items())
                # rho_hat(t + 1) = 0.8 rho_hat(t) + 0.2 rho
                average[group.name] = KEPT * average.get(group.name, torch.zeros_like(rho)) + (1 - KEPT) * rho
    if not average:
        raise ValueError("batches: no calibration data")
    return average


def prune(
    model: nn.Module,
    batches: Batches,
    amount: Amount,
    *,
    train: Train | None = None,
    evaluate: object = None,
    rounds: int = 5,
    loss: Loss = linear_error,
) -> nn.Module:
    """The smaller network, trained after each round if `train` is given.

    Args:
        model: trained.
        batches: (inputs, targets) for the relevance.
        amount: the fraction of all hidden units to trim; one of each layer always stays.
        train: (model, callbacks) -> model.
        evaluate: not used.
        rounds: how often to trim and train, >= 1.
        loss: the error that relevance is about.

    Raises:
        ValueError: `amount` or `rounds` out of range, no batch, a NaN or infinite weight, or nothing can be removed.
    """
    return remove_in_rounds(
        model, batches, amount, lambda network, groups: relevance(network, groups, batches, loss), rounds=rounds, train=train
    )
