"""DepGraph: all parameters that must leave together are judged, and trained towards zero, as one group (fang2023depgraph).

Idea: removing a channel takes the filters that make it, the scales of its normalization and the columns that read it, in as many layers as
a shortcut ties together. Judge it by all of them at once, not by one layer's share. So that the judgement is clear, first train on with a
penalty that falls on whole groups, the stronger the smaller a group already is: unimportant channels then become small everywhere.

Cost: a sum of squares over all weights; with sparse training the same at every step; one pass of a single example to follow the channels.

Implementation details
1. A group's importance is the sum of squares of the weights that make it and read it, and of its scales; biases do not count, as by default
   in the authors' code. Divided by the layer's mean, importances compare over layers.
2. The penalty's factor runs from 1 for the most to 2^4 for the least important group of its layer, in equal steps of the root of the
   importance, as in the authors' code. It multiplies the weights, as the gradient of a square does.
3. The factor is found anew at every step and carries no gradient itself.
4. Each layer loses the same fraction; or, over the whole network, the smallest normalized importances go.

Deviations: the paper's graph of dependencies is the one shared by all structured methods here. The code leaves depthwise weights out of the
sum; here they count, as weights that make a channel. Its pruning in several steps is left out. The formula is the code's, which leaves a
factor of two and the paper's exact exponent to the strength.
"""

import copy
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from reference_impls.core.amounts import Amount, Sparsity, sparsity
from reference_impls.core.groups import Group, Member
from reference_impls.core.masks import keep_units
from reference_impls.core.structures import LAYERS, one_example, per_unit, removable_groups
from reference_impls.core.surgery import remove
from reference_impls.core.training import Batches, Callback, Train

UNIT = "channel"
GROUP = "layer"
AMOUNTS = (Sparsity,)
NETWORK = "resnet8"
# weights_only is said of the choice of channels; sparse training and retraining read data
# idempotent does not hold: the smallest of what is left would go
TRAITS = frozenset({"exact_count", "identity_at_zero", "weights_only", "shrinks"})

JUDGED = LAYERS | nn.modules.batchnorm._BatchNorm | nn.LayerNorm


def judged(model: nn.Module, group: Group) -> Iterator[tuple[Member, nn.Parameter]]:
    """The weights of linear and convolution layers, and the scales of normalizations, that make or read a group's units."""
    for member in group.members:
        layer = model.get_submodule(member.layer)
        if member.tensor.endswith("weight") and isinstance(layer, JUDGED):
            yield member, model.get_parameter(member.tensor)


@torch.no_grad()
def group_importance(model: nn.Module, group: Group) -> Tensor:
    """The sum of squares of all that is judged of each unit, over the mean of the group's units: shape (size of the group,)."""
    # I_(g,k) = sum_(w in g) |w[k]|^2
    total = sum(
        per_unit(member, weight.square().movedim(member.dim, 0).reshape(len(member.units), -1).sum(1), group.size)
        for member, weight in judged(model, group)
    )
    return total / total.mean().clamp_min(torch.finfo(total.dtype).tiny)


def shrinkage(importance: Tensor, alpha: float) -> Tensor:
    """The penalty's factor of each unit: 1 for the most important, 2^alpha for the least, 1 for all where they are equal."""
    root = importance.sqrt()
    span = root.max() - root.min()
    # gamma_k = 2^(alpha (I_max - I_k) / (I_max - I_min))
    return 2 ** (alpha * (root.max() - root) / span) if span > 0 else torch.ones_like(root)


class GroupSparsity(Callback):
    """Sparse training: pulls each group towards zero, the less important the more strongly."""

    def __init__(self, groups: Sequence[Group], strength: float, alpha: float) -> None:
        self.groups, self.strength, self.alpha = groups, strength, alpha

    @torch.no_grad()
    def after_backward(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for group in self.groups:
            gamma = shrinkage(group_importance(model, group), self.alpha)
            for member, weight in judged(model, group):
                along = torch.where(member.units >= 0, gamma[member.units], 0)
                # dL / dw[k]  +  lambda gamma_k w[k]
                weight.grad += self.strength * along.view([-1 if dim == member.dim else 1 for dim in range(weight.dim())]) * weight


def prune(
    model: nn.Module,
    batches: Batches,
    amount: Amount,
    *,
    train: Train | None = None,
    evaluate: object = None,
    strength: float = 1e-4,
    alpha: float = 4.0,
    group: str = "layer",
) -> nn.Module:
    """The network without its least important channels; trained sparsely before and retrained after, if `train` is given.

    Args:
        model: a trained network.
        batches: one example is taken, to follow the channels.
        amount: the fraction of each layer's channels (or of the network's) to remove; one of each layer always stays.
        train: (model, callbacks) -> model; called twice, the first time with the penalty.
        evaluate: not used.
        strength: lambda of sparse training, >= 0; 0 = no sparse training. What a short training needs is larger than the default.
        alpha: how unequal the penalty is; 0 = the same for all groups.
        group: "layer" or "network": what is compared.

    Raises:
        ValueError: `amount` is no sparsity, `strength` is negative, no batch, a NaN or infinite weight, or nothing can be removed.
    """
    sparsity(amount)
    if not strength >= 0:
        raise ValueError(f"strength: {strength} is not >= 0")
    groups = removable_groups(model, one_example(batches))
    network = model
    if train is not None and strength > 0:
        network = train(copy.deepcopy(model), [GroupSparsity(groups, strength, alpha)])
    scores = {found.name: group_importance(network, found) for found in groups}
    small = remove(network, groups, keep_units(scores, amount, group))
    return small if train is None else train(small)
