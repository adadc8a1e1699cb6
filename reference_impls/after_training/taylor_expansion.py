"""Taylor expansion: remove the feature map whose activations times their gradients are least, and fine-tune (molchanov2017pruning).

Idea: what the loss would do without a feature map is, to first order, the derivative by each activation times that activation.
Back-propagation has both. Each example's mean over the map is taken, its size averaged over the examples, and the result brought
to a common scale layer by layer, so that maps of the whole network can be compared.

Cost: one forward and one backward pass over the batches per round, and one training run per round.

Implementation details
1. The mean over a map is taken with its sign, the absolute value per example; only then are examples averaged.
2. The sum of activation times gradient over a map is the loss's derivative by a factor of 1 on that map: no activation is stored.
3. The map is taken before the rectifier, behind the batch norm if one follows: what the rectifier sets to zero passes no gradient
   either, so the criterion is the same on both sides of it.
4. Each layer's criteria are divided by their l2 norm.
5. Layers that a shortcut ties lose their maps together: their terms are added before the absolute value.

Deviations: the paper removes one map per round, here each round removes the same fraction of what is left; its term that favors
costly layers (FLOPs regularization) is left out. Activations are taken in evaluation mode. The paper has no shortcuts. Hidden neurons
of fully connected layers are left alone.
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

Terms = dict[nn.Module, Tensor]  # layer -> mean over each map of activation times gradient: (examples, maps)


def map_terms(model: nn.Module, layers: set[nn.Module], inputs: Tensor, targets: Tensor, loss: Loss) -> Terms:
    """The signed terms of every map, with each example's own loss.

    Args:
        model: in evaluation mode.
        layers: convolutions; where a batch norm reads a convolution's output itself, the map is the norm's.
        loss: (outputs, targets) -> mean over the examples.
    """
    gates: dict[nn.Module, tuple[Tensor, int, Tensor]] = {}  # layer -> factor per example and map, M, the gated maps

    def gate(layer: nn.Module, args: tuple[Tensor, ...], outputs: Tensor) -> Tensor:
        # the norm's map takes the place of the convolution's
        layer = next((maker for maker, (*_, gated) in gates.items() if args[0] is gated), layer)
        if layer not in layers:
            return outputs
        factor = outputs.new_ones(outputs.shape[:2]).requires_grad_()
        gated = outputs * factor.view(*factor.shape, *[1] * (outputs.dim() - 2))
        gates[layer] = factor, outputs[0, 0].numel(), gated
        return gated

    watched = [m for m in model.modules() if m in layers or isinstance(m, nn.modules.batchnorm._BatchNorm)]
    hooks = [layer.register_forward_hook(gate) for layer in watched]
    try:
        with torch.enable_grad():
            total = loss(model(inputs), targets) * len(inputs)
            gradients = torch.autograd.grad(total, [factor for factor, *_ in gates.values()])
    finally:
        for hook in hooks:
            hook.remove()
    # 1/M sum_m dC/dz_m z_m
    return {layer: gradient / m for (layer, (_, m, _)), gradient in zip(gates.items(), gradients, strict=True)}


def makers(model: nn.Module, group: Group) -> list[Member]:
    """The convolution weights that make the group's maps; a depthwise filter passes on a map that another layer makes."""
    making = [member for member, _ in weights_among(model, group.producers)]
    return [member for member in making if getattr(model.get_submodule(member.layer), "groups", 1) == 1] or making


def importance(model: nn.Module, groups: list[Group], batches: Batches, loss: Loss = cross_entropy) -> Scores:
    """The normalized criterion of each feature map: group name -> (maps,), in [0, 1]; the squares of each group sum to 1.

    Args:
        groups: of this model; those that no convolution makes are left out.
        batches: (inputs, targets), at least one.
        loss: (outputs, targets) -> mean over the examples.

    Raises:
        ValueError: no batch, or no group made by a convolution.
    """
    made = {group: makers(model, group) for group in made_by_convolutions(model, groups)}
    layers = {model.get_submodule(member.layer) for members in made.values() for member in members}
    total: dict[str, Tensor] = {}
    with evaluating(model):
        for inputs, targets in batches:
            terms = map_terms(model, layers, inputs, targets, loss)
            for group, members in made.items():
                # Theta(z) = |1/M sum_m dC/dz_m z_m|, per example; its sum over the examples is their average up to a common factor
                theta = sum(per_unit(m, terms[model.get_submodule(m.layer)], group.size) for m in members).abs().sum(0)
                total[group.name] = total.get(group.name, 0) + theta
    if not total:
        raise ValueError("batches: no calibration data")
    # Theta_hat = Theta / sqrt(sum_j Theta_j^2)
    return {name: nn.functional.normalize(theta, dim=0) for name, theta in total.items()}


def prune(
    model: nn.Module,
    batches: Batches,
    amount: Amount,
    *,
    train: Train | None = None,
    evaluate: object = None,
    rounds: int = 5,
    loss: Loss = cross_entropy,
) -> nn.Module:
    """The smaller network, trained after each round if `train` is given.

    Args:
        model: fine-tuned on the task.
        batches: (inputs, targets) for activations and gradients.
        amount: the fraction of all feature maps to remove; one of each layer always stays.
        train: (model, callbacks) -> model; a short fine-tuning.
        evaluate: not used.
        rounds: how often to remove and train, >= 1.
        loss: (outputs, targets) -> mean over the examples.

    Raises:
        ValueError: `amount` or `rounds` out of range, no batch, a NaN or infinite weight, or nothing can be removed.
    """
    return remove_in_rounds(
        model, batches, amount, lambda network, groups: importance(network, groups, batches, loss), rounds=rounds, train=train
    )
