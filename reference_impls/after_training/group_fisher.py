"""Group Fisher pruning: channels that are tied share one mask, judged by its Fisher information per memory that it frees (liu2021group).

Idea: put a mask on what a layer reads, one entry per channel. How much the loss would change without the channel is estimated by the mean
square of the loss's gradient by that entry, example by example: the Fisher information. Layers that read the same channels, behind a
shortcut or as depthwise filters do, share the mask, so their gradients add up before they are squared. What a channel costs in time is
rather its memory than its operations, so the score is divided by the activations that go with it.

Cost: one forward and one backward pass over the batches per round; one pass of a single example to follow the channels and count.

Implementation details
1. The gradient by a mask's entry is activation times gradient, summed over positions and over all layers that share it; its square is
   summed over examples.
2. A channel's memory is the number of activations, of one example, of all layers that make it. Dividing by multiply-accumulates
   instead is an option of the authors' code too; there they are those of the layers that make it and of those that read it.
3. Channels are compared over the whole network; one of each layer always stays.

Deviations: the authors' code masks a single channel after every ten steps of training, with the scores gathered in these steps; here each
round removes several, with the scores of all batches, and a whole training run may follow. Scores are taken in evaluation mode, so that
examples do not feel each other. Linear layers count as readers and makers too. The paper was read through its abstract and its code, not
in full.
"""

import torch
from torch import Tensor, nn

from reference_impls.core.amounts import Amount, Sparsity
from reference_impls.core.groups import Group, Member
from reference_impls.core.masks import Scores
from reference_impls.core.rounds import remove_in_rounds
from reference_impls.core.structures import Costs, one_example, per_unit, weights_among
from reference_impls.core.training import Batches, Loss, Train, cross_entropy, evaluating

UNIT = "channel"
GROUP = "network"
AMOUNTS = (Sparsity,)
NETWORK = "resnet8"
# idempotent does not hold: the least important of what is left would go
TRAITS = frozenset({"exact_count", "identity_at_zero", "shrinks"})


def readers(model: nn.Module, group: Group) -> list[Member]:
    """The weights whose layers read the group's units; a depthwise one, which also makes them, reads them as well."""
    makes = [member for member, _ in weights_among(model, group.producers)]
    depthwise = [member for member in makes if getattr(model.get_submodule(member.layer), "groups", 1) > 1]
    return [member for member, _ in weights_among(model, group.consumers)] + depthwise


def mask_gradients(model: nn.Module, layers: set[nn.Module], inputs: Tensor, targets: Tensor, loss: Loss) -> dict[nn.Module, Tensor]:
    """The gradient of each example's own loss by a mask on what each layer reads: layer -> (examples, channels).

    Args:
        model: in evaluation mode.
        layers: linear ones and convolutions.
        loss: (outputs, targets) -> mean over the examples.
    """
    masks: dict[nn.Module, Tensor] = {}

    def apply(layer: nn.Module, args: tuple[Tensor, ...]) -> Tensor:
        x = args[0]
        channels, dim = (x.shape[-1], x.dim() - 1) if isinstance(layer, nn.Linear) else (x.shape[1], 1)
        if layer not in masks:
            masks[layer] = x.new_ones(len(x), channels).requires_grad_()
        return x * masks[layer].view([size if place in (0, dim) else 1 for place, size in enumerate(x.shape)])

    hooks = [layer.register_forward_pre_hook(apply) for layer in layers]
    try:
        with torch.enable_grad():
            total = loss(model(inputs), targets) * len(inputs)
            gradients = torch.autograd.grad(total, list(masks.values()), materialize_grads=True)
    finally:
        for hook in hooks:
            hook.remove()
    return dict(zip(masks, gradients, strict=True))


def fisher(model: nn.Module, groups: list[Group], batches: Batches, loss: Loss = cross_entropy) -> Scores:
    """The Fisher information of each group's shared mask, summed over the examples: group name -> (size of the group,).

    Raises:
        ValueError: no batch.
    """
    reading = {group: found for group in groups if (found := readers(model, group))}
    layers = {model.get_submodule(member.layer) for members in reading.values() for member in members}
    total: dict[str, Tensor] = {}
    with evaluating(model):
        for inputs, targets in batches:
            gradients = mask_gradients(model, layers, inputs, targets, loss)
            for group, members in reading.items():
                # s_k = sum_n (sum_(layers) dL_n / dm_k)^2
                shared = sum(per_unit(m, gradients[model.get_submodule(m.layer)], group.size) for m in members)
                total[group.name] = total.get(group.name, 0) + shared.square().sum(0)
    if not total:
        raise ValueError("batches: no calibration data")
    return total


def memory(model: nn.Module, groups: list[Group], example: Tensor) -> dict[str, int]:
    """The activations that one channel of each group takes up in all layers that make it: group name -> count."""
    outputs: dict[nn.Module, int] = {}

    def count(layer: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        channels = output.shape[-1] if isinstance(layer, nn.Linear) else output.shape[1]
        outputs[layer] = outputs.get(layer, 0) + output.numel() // channels

    makes = {group.name: [model.get_submodule(member.layer) for member, _ in weights_among(model, group.producers)] for group in groups}
    hooks = [layer.register_forward_hook(count) for layer in {layer for layers in makes.values() for layer in layers}]
    try:
        with torch.no_grad(), evaluating(model):
            model(example)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: max(sum(outputs[layer] for layer in layers), 1) for name, layers in makes.items()}


def prune(
    model: nn.Module,
    batches: Batches,
    amount: Amount,
    *,
    train: Train | None = None,
    evaluate: object = None,
    rounds: int = 5,
    per: str = "memory",
    loss: Loss = cross_entropy,
) -> nn.Module:
    """The smaller network, trained after each round if `train` is given.

    Args:
        model: a trained network.
        batches: (inputs, targets), at least one.
        amount: the fraction of all channels and neurons of the network to remove; one of each layer always stays.
        train: (model, callbacks) -> model.
        evaluate: not used.
        rounds: each removes the same fraction of what is left, >= 1.
        per: what the information is divided by: "memory", "macs" (multiply-accumulates) or "nothing".
        loss: (outputs, targets) -> mean over the examples.

    Raises:
        ValueError: `amount`, `rounds` or `per` out of range, no batch, a NaN or infinite weight, or nothing can be removed.
    """
    if per not in ("memory", "macs", "nothing"):
        raise ValueError(f"per: {per!r} is none of memory, macs, nothing")

    def importance(network: nn.Module, groups: list[Group]) -> Scores:
        scores = fisher(network, groups, batches, loss)
        example = one_example(batches)
        if per == "memory":
            freed = memory(network, groups, example)
        elif per == "macs":
            costs = Costs(network, groups, example)
            freed = {group.name: costs({}) - costs({group.name: group.size - 1}) for group in groups}
        else:
            freed = dict.fromkeys(scores, 1)
        # s_k / Delta_k
        return {name: score / freed[name] for name, score in scores.items()}

    return remove_in_rounds(model, batches, amount, importance, rounds=rounds, train=train)
