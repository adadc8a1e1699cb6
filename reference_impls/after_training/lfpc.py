"""LFPC: a sampler learns which criterion ranks the filters of each layer, from the loss of what its draws leave (he2020learning).

Idea: filters of early and late layers are distributed differently, so no criterion is right for all layers. Offer each layer several, and
let a sampler learn which to take: it draws one criterion per layer, all layers are pruned by what was drawn, and the loss on held-out data
says how good the draw was. A Gumbel-softmax makes the draw differentiable. All layers are judged together, in the network they end up in.

Cost: one forward and one backward pass of a batch per step; as many numbers as layers times criteria are learned.

Implementation details
1. Each criterion's choice is fixed beforehand, from the trained weights: a mask for every criterion and layer.
2. The forward pass uses one criterion per layer, the backward pass the soft mixture: a straight-through draw.
3. A pruned filter is cut where the next layers read it, so that the loss also says what its return would change.
4. In the end each layer takes its most probable criterion; its filters are removed, and what is left is fine-tuned.

Deviations: the paper is known here through its abstract, which names the sampler, the validation loss it learns from and the joint judgment
of all layers. Choices made here: the criteria (l1 norm, l2 norm, distance to all other filters), the Gumbel-softmax of fixed temperature,
Adam for the sampler, one fraction for all layers, weights that rest while the sampler learns, filters that a shortcut adds taken as one.
"""

from collections.abc import Callable, Iterable, Mapping
from itertools import cycle, islice

import torch
from torch import Tensor, nn

from reference_impls.core.amounts import Amount, Sparsity, sparsity
from reference_impls.core.groups import Group
from reference_impls.core.masks import keep_units
from reference_impls.core.per_input import straight_through
from reference_impls.core.rounds import made_by_convolutions
from reference_impls.core.soft_filters import filters
from reference_impls.core.structures import one_example, removable_groups, weights_among
from reference_impls.core.surgery import remove
from reference_impls.core.training import Batches, Loss, Train, cross_entropy, evaluating
from reference_impls.during_training.geometric_median import distance_sums

UNIT = "filter"
GROUP = "layer"
AMOUNTS = (Sparsity,)
NETWORK = "resnet8"
QUICK = {"steps": 4}  # to see that it runs; too few to learn
# idempotent does not hold: the lowest of what is left would go
TRAITS = frozenset({"exact_count", "identity_at_zero", "shrinks"})

# filters, one a row -> one number each; the lowest go
CRITERIA: dict[str, Callable[[Tensor], Tensor]] = {
    "l1_norm": lambda rows: rows.abs().sum(1),
    "l2_norm": lambda rows: rows.norm(dim=1),
    "geometric_median": distance_sums,
}


def choices(rows: Tensor, fraction: float) -> Tensor:
    """Which filters each criterion keeps: bool, (criteria, filters).

    Args:
        rows: the filters, (filters, weights of each).
        fraction: of the filters, to go; one always stays.
    """
    return torch.stack([keep_units({"": criterion(rows)}, fraction)[""] for criterion in CRITERIA.values()])


def draw(logits: Tensor, temperature: float, generator: torch.Generator | None = None) -> Tensor:
    """One criterion, as a vector of zeros and a single 1 whose gradient is that of the soft mixture: (criteria,)."""
    uniform = torch.rand(logits.shape, generator=generator).clamp(min=1e-9).to(logits)
    # y = softmax((a + g) / tau), g = -log(-log(u))
    soft = ((logits - (-uniform.log()).log()) / temperature).softmax(0)
    return straight_through(nn.functional.one_hot(soft.argmax(), len(soft)).to(soft), soft)


def read_through(model: nn.Module, groups: Iterable[Group], gates: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights that read gated filters: parameter name -> weight, each column times the gate of its filter.

    Args:
        gates: group name -> one factor per filter, (size of the group,).
    """
    weights: dict[str, Tensor] = {}
    for group in groups:
        for member, weight in weights_among(model, group.consumers):
            units, gate = member.units.to(weight.device), gates[group.name]
            columns = gate[units].where(units >= 0, 1).view([-1 if dim == member.dim else 1 for dim in range(weight.dim())])
            weights[member.tensor] = weights.get(member.tensor, weight) * columns
    return weights


def learn(
    model: nn.Module,
    groups: list[Group],
    kept: Mapping[str, Tensor],
    batches: Batches,
    steps: int,
    *,
    loss: Loss = cross_entropy,
    learning_rate: float = 0.1,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """The sampler's logits after learning: group name -> (criteria,); the largest is the criterion to take.

    Args:
        kept: group name -> what each criterion keeps, from `choices`.
        batches: held out from training; gone through again until there were enough steps.
    """
    logits = {group.name: torch.zeros(len(CRITERIA), requires_grad=True) for group in groups}
    optimizer = torch.optim.Adam(logits.values(), learning_rate)
    with evaluating(model):
        for inputs, targets in islice(cycle(batches), steps):
            drawn = {name: draw(logit, temperature, generator) for name, logit in logits.items()}
            gates = {name: y.to(inputs) @ kept[name].to(inputs) for name, y in drawn.items()}
            outputs = torch.func.functional_call(model, read_through(model, groups, gates), (inputs,))
            # a <- a - eta dL_val / da
            gradients = torch.autograd.grad(loss(outputs, targets), list(logits.values()))
            for logit, gradient in zip(logits.values(), gradients, strict=True):
                logit.grad = gradient
            optimizer.step()
    return {name: logit.detach() for name, logit in logits.items()}


def prune(
    model: nn.Module,
    batches: Batches,
    amount: Amount,
    *,
    train: Train | None = None,
    evaluate: object = None,
    steps: int = 200,
    learning_rate: float = 0.1,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
) -> nn.Module:
    """The network pruned by each layer's learned criterion, fine-tuned if `train` is given.

    Args:
        model: trained.
        batches: (inputs, targets) held out from training; the sampler learns from them.
        amount: the fraction of each layer's filters to remove.
        train: (model, callbacks) -> model.
        evaluate: not used, the loss on `batches` judges.
        steps: of the sampler, >= 1.
        learning_rate: of the sampler, > 0.
        temperature: tau of the draw, > 0.
        generator: of the draws; the default generator if None.

    Raises:
        ValueError: an argument is out of its range, no batch, a NaN or infinite weight, or nothing can be removed.
    """
    fraction = sparsity(amount)
    for name, value in (("steps", steps), ("learning_rate", learning_rate), ("temperature", temperature)):
        if not value > 0:
            raise ValueError(f"{name}: {value} is not above 0")
    groups = made_by_convolutions(model, removable_groups(model, one_example(batches)))
    kept = {group.name: choices(filters(model, group), fraction) for group in groups}
    learned = learn(model, groups, kept, batches, steps, learning_rate=learning_rate, temperature=temperature, generator=generator)
    small = remove(model, groups, {name: kept[name][int(logit.argmax())] for name, logit in learned.items()})
    return small if train is None else train(small)
