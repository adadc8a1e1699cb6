"""Network slimming: an l1 penalty on batch normalization's scales picks the channels, the smallest scales go (liu2017learning).

Idea: batch normalization already multiplies every channel by a scale of its own. Push these scales towards zero while training,
with a plain l1 penalty, and the channels whose scale has become small can go with almost no harm: no extra gates, no other
loss, and a network that is simply narrower. One threshold for all layers lets each layer find its own width.

Cost: one sum over the scales per step; in the end one forward pass of a single example, to follow the channels.

Implementation details
1. The penalty is added to the loss, so its subgradient, strength * sign(scale), reaches the optimizer as in the authors' code;
   at a scale of exactly zero it is zero.
2. The threshold is a percentile over all scales of the network; layers may lose very different fractions.
3. The channels go for real in `finish`; fine-tune what comes out. The shifts of pruned channels are dropped, not folded in.
4. Shortcuts: channels that are added together can only go together, and several scales belong to one such channel. Its score is
   the mean of their absolute values, so that it compares with the channels that have a single scale.

Deviations: exactly round(sparsity * n) channels go and one of each layer stays, where the authors' code prunes every scale up to
the threshold's. The authors' residual networks normalize before the convolutions and select among the channels of the stream
inside each block, keeping the stream wide; here the stream itself gets narrower.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from reference_impls.core.amounts import Amount, Sparsity, sparsity
from reference_impls.core.groups import Group
from reference_impls.core.masks import keep_units, prunable_weights
from reference_impls.core.structures import per_unit, removable_groups
from reference_impls.core.surgery import remove
from reference_impls.core.training import Callback

UNIT = "channel"
GROUP = "network"
AMOUNTS = (Sparsity,)
NETWORK = "resnet8"
# identity_at_zero does not hold: the penalty acts on training even if no channel goes
# fixed_mask does not hold: nothing is masked, the channels are gone
TRAITS = frozenset({"exact_count", "shrinks"})

NORMS = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d


def scales(model: nn.Module) -> dict[str, nn.Parameter]:
    """The trainable scales of all batch normalizations, by parameter name.

    Raises:
        ValueError: there is none.
    """
    named = {f"{name}.weight": module.weight for name, module in model.named_modules() if isinstance(module, NORMS)}
    found = {name: scale for name, scale in named.items() if scale is not None and scale.requires_grad}
    if not found:
        raise ValueError("model: nothing to prune by, no batch normalization has a trainable scale")
    return found


def channel_scores(model: nn.Module, groups: Iterable[Group]) -> dict[str, Tensor]:
    """Mean absolute scale of each channel: group name -> one number per unit; groups without a scale are left out."""
    found = scales(model)
    scores = {}
    for group in groups:
        own = [member for member in group.producers if member.tensor in found]
        if own:
            total = sum(per_unit(member, found[member.tensor].detach().abs(), group.size) for member in own)
            scores[group.name] = total / sum(per_unit(member, torch.ones_like(found[member.tensor]), group.size) for member in own)
    return scores


class Slimming(Callback):
    """Trains under the penalty, then removes the channels with the smallest scales."""

    def __init__(self, fraction: float, strength: float) -> None:
        self.fraction = fraction
        self.strength = strength
        self.example: Tensor | None = None  # the first image that is trained on, to follow the channels with

    def start(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        def record(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            self.example = inputs[0][:1].detach().clone()
            hook.remove()

        hook = model.register_forward_pre_hook(record)

    def penalty(self, model: nn.Module) -> Tensor:
        # lambda sum_gamma |gamma|
        return self.strength * sum(scale.abs().sum() for scale in scales(model).values())

    def finish(self, model: nn.Module) -> nn.Module:
        groups = removable_groups(model, self.example)
        scores = channel_scores(model, groups)
        if not scores:
            raise ValueError("model: nothing to prune, no channel with a scale can be removed")
        return remove(model, groups, keep_units(scores, self.fraction))


def callbacks(model: nn.Module, amount: Amount, *, steps: int = 0, strength: float = 1e-4) -> list[Callback]:
    """Train with these, and `fit` returns the narrower network.

    Args:
        model: with batch normalization.
        amount: the fraction of all channels of the network to remove, after the last step.
        steps: not used.
        strength: lambda, the factor of the penalty. What a small network needs in few steps is larger than the default.

    Raises:
        ValueError: `amount` is no sparsity, a weight is NaN or infinite, or the model has no batch normalization to train.
    """
    fraction = sparsity(amount)
    prunable_weights(model)
    scales(model)
    return [Slimming(fraction, strength)]
