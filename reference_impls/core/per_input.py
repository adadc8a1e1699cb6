"""What networks share that decide for each input what to compute: the count of what each example costs, and gates that train."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from reference_impls.core.training import evaluating

Cost = Callable[[nn.Module, Tensor, Tensor], Tensor | int]  # (layer, its input, its output) -> multiply-accumulates of each example


def straight_through(hard: Tensor, soft: Tensor) -> Tensor:
    """The value of `hard` with the gradient of `soft`, of the same shape: a step that can be trained."""
    return hard + (soft - soft.detach())


def dense(layer: nn.Module, outputs: Tensor) -> int:
    """Multiply-accumulates of one example in a convolution or linear layer that computes everything."""
    return outputs[0].numel() * layer.weight[0].numel()


@torch.no_grad()
def macs_per_example(model: nn.Module, inputs: Tensor, cost: Cost) -> Tensor:
    """Multiply-accumulates that each example needs in the model's convolutions and linear layers: (examples,), whole numbers.

    Args:
        model: called with `inputs` in evaluation mode; left in its own mode.
        cost: what a layer costs: one number for all examples, or a tensor (examples,).
    """
    counts = torch.zeros(len(inputs), dtype=torch.long)

    def count(layer: nn.Module, args: tuple[Tensor], outputs: Tensor) -> None:
        counts.add_(torch.as_tensor(cost(layer, args[0], outputs)).cpu().long())

    hooks = [layer.register_forward_hook(count) for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    try:
        with evaluating(model):
            model(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return counts
