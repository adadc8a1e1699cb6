"""Taylor-FO: remove the filters whose squared first-order effect on the loss is least, a few at a time (molchanov2019importance).

Idea: how much the squared loss change would be without a parameter is, to first order, the square of gradient times value. Both are
at hand in every training step. A filter's importance is the sum over its weights, comparable between layers without any tuning.

Cost: one forward and one backward pass over the batches per round, and one training run per round.

Implementation details
1. Criterion "weight": each weight's product is squared, then summed over the filter.
2. Criterion "gate": an imagined factor of 1 behind the batch norm; its derivative is the sum of products over the norm's scale and
   shift, squared after the sum. Without a norm the same holds for the filter's weights and bias.
3. The gradient is that of a batch's mean loss; the squares are averaged over the batches.
4. Layers that a shortcut ties share their filters: with weights their importances add up, with gates there is one common gate.

Deviations: the importance is computed anew in each round from all batches in evaluation mode, where the authors gather it while
training goes on, with a momentum of 0.9 between prunings. Their correction for gradients that skip connections add up is left out.
"""

import torch
from torch import Tensor, nn

from reference_impls.core.amounts import Amount, Sparsity
from reference_impls.core.groups import Group, Member
from reference_impls.core.masks import Scores
from reference_impls.core.rounds import made_by_convolutions, remove_in_rounds
from reference_impls.core.structures import per_unit, weights_among
from reference_impls.core.training import Batches, Loss, Train, cross_entropy, evaluating

UNIT = "filter"
GROUP = "network"
AMOUNTS = (Sparsity,)
NETWORK = "resnet8"
# idempotent does not hold: the least important of what is left would go
TRAITS = frozenset({"exact_count", "identity_at_zero", "shrinks"})


def gate_members(model: nn.Module, group: Group) -> list[Member]:
    """The parameters whose joint factor is the group's gate: scale and shift of its norms; without a norm, weights and biases."""
    trainable = [member for member in group.producers if member.tensor in dict(model.named_parameters())]
    norms = [m for m in trainable if isinstance(model.get_submodule(m.layer), nn.modules.batchnorm._BatchNorm)]
    return norms or trainable


def importance(model: nn.Module, groups: list[Group], batches: Batches, criterion: str = "weight", loss: Loss = cross_entropy) -> Scores:
    """The importance of each filter: group name -> (filters,), >= 0.

    Args:
        groups: of this model; those that no convolution makes are left out.
        batches: (inputs, targets), at least one.
        criterion: "weight" or "gate".
        loss: (outputs, targets) -> mean over the examples.

    Raises:
        ValueError: an unknown criterion, no batch, or no group made by a convolution.
    """
    if criterion not in ("weight", "gate"):
        raise ValueError(f"criterion: {criterion!r} is neither weight nor gate")
    filters = made_by_convolutions(model, groups)
    members = {
        group: [m for m, _ in weights_among(model, group.producers)] if criterion == "weight" else gate_members(model, group)
        for group in filters
    }
    parameters = {member.tensor: model.get_parameter(member.tensor) for found in members.values() for member in found}
    total, count = {group.name: torch.zeros(group.size) for group in filters}, 0
    with evaluating(model), torch.enable_grad():
        for inputs, targets in batches:
            gradients = torch.autograd.grad(
                loss(model(inputs), targets), list(parameters.values()), allow_unused=True, materialize_grads=True
            )
            products = {name: (g * w).detach() for (name, w), g in zip(parameters.items(), gradients, strict=True)}
            for group, found in members.items():
                total[group.name] = total[group.name].to(inputs.device) + squared(found, products, group.size, criterion == "gate")
            count += 1
    if count == 0:
        raise ValueError("batches: no calibration data")
    return {name: value / count for name, value in total.items()}


def squared(members: list[Member], products: dict[str, Tensor], size: int, jointly: bool) -> Tensor:
    """The squared first-order effects of a group's units: (size,).

    Args:
        members: the slices that count.
        products: tensor name -> gradient times value.
        jointly: square the sum of the products, not each of them.
    """
    along = {m: products[m.tensor].movedim(m.dim, -1).reshape(-1, len(m.units)) for m in members}
    if jointly:
        # I(z) = (dE/dz)^2 = (sum_s g_s w_s)^2
        return sum(per_unit(m, product.sum(0), size) for m, product in along.items()).square()
    # I_S(W) = sum_s (g_s w_s)^2
    return sum(per_unit(m, product.square().sum(0), size) for m, product in along.items())


def prune(
    model: nn.Module,
    batches: Batches,
    amount: Amount,
    *,
    train: Train | None = None,
    evaluate: object = None,
    rounds: int = 5,
    criterion: str = "weight",
    loss: Loss = cross_entropy,
) -> nn.Module:
    """The smaller network, trained after each round if `train` is given.

    Args:
        model: trained.
        batches: (inputs, targets) for the gradients.
        amount: the fraction of all filters to remove; one of each layer always stays.
        train: (model, callbacks) -> model; a short fine-tuning.
        evaluate: not used.
        rounds: how often to remove and train, >= 1.
        criterion: "weight" or "gate".
        loss: (outputs, targets) -> mean over the examples.

    Raises:
        ValueError: `amount`, `rounds` or `criterion` out of range, no batch, a NaN or infinite weight, or nothing can be removed.
    """
    return remove_in_rounds(
        model, batches, amount, lambda network, groups: importance(network, groups, batches, criterion, loss), rounds=rounds, train=train
    )
