"""PFEC: in each layer of a trained network the filters with the smallest l1 norm go, once, and the rest is retrained (li2017pruning).

Idea: a filter whose weights are small makes weak feature maps. Whole filters go, with the maps they make and the kernels of the
next layer that read those maps, so what is left is an ordinary, smaller network: no sparse kernels are needed.

Cost: one sum over the weights, one forward pass of a single example to follow the channels, then the retraining.

Implementation details
1. Smallest and largest are compared within a layer, never between layers; each layer loses the same fraction.
2. Maps that a shortcut adds must go together. The layer on the shortcut decides (the projection, or where the shortcut is the
   identity the layer that first made those maps), and the residual branch follows: here, of the layers that make the maps, the
   one with the fewest layers before it.
3. Greedy counting leaves out kernels that read maps already pruned in earlier layers; independent counting (the default) does not.

Deviations: the paper sets a rate per layer from each layer's sensitivity and skips sensitive layers; here all lose the same
fraction (call it with a part frozen to skip layers). Hidden neurons of fully connected layers are left alone, as in the paper.
"""

from collections.abc import Iterable

from torch import Tensor, nn

from reference_impls.core.amounts import Amount, Sparsity, sparsity
from reference_impls.core.groups import Group, Member
from reference_impls.core.masks import keep_units
from reference_impls.core.structures import one_example, per_unit, removable_groups, slice_norms, weights_among
from reference_impls.core.surgery import remove
from reference_impls.core.training import Batches, Train

UNIT = "filter"
GROUP = "layer"
AMOUNTS = (Sparsity,)
NETWORK = "resnet8"
# weights_only is said of the choice of filters; the retraining that belongs to the method reads data
# idempotent does not hold: the smallest of what is left would go
TRAITS = frozenset({"exact_count", "identity_at_zero", "weights_only", "shrinks"})


def deciding_weights(model: nn.Module, groups: Iterable[Group]) -> dict[Group, Member]:
    """For each group that convolutions make, the weight whose filters are compared; groups with fewer layers before them first."""
    made_by: dict[Group, list[Member]] = {}
    read_by: dict[str, list[Group]] = {}
    for group in groups:
        making = [member for member, _ in weights_among(model, group.producers)]
        # a depthwise filter passes on a channel that another layer makes
        if members := [member for member in making if getattr(model.get_submodule(member.layer), "groups", 1) == 1] or making:
            made_by[group] = members
            for member, _ in weights_among(model, group.consumers):
                read_by.setdefault(member.tensor, []).append(group)
    decides: dict[Group, Member] = {}
    for _ in made_by:  # each round goes one layer deeper
        reached = {
            group: member
            for group, members in made_by.items()
            for member in members[::-1]
            if group not in decides and (member.tensor not in read_by or any(read in decides for read in read_by[member.tensor]))
        }
        decides |= reached
    return {g: member for g, member in decides.items() if isinstance(model.get_submodule(member.layer), nn.modules.conv._ConvNd)}


def filters_to_keep(model: nn.Module, groups: Iterable[Group], amount: Amount, greedy: bool = False) -> dict[str, Tensor]:
    """Which filters stay: group name -> bool per filter.

    Raises:
        ValueError: `amount` is no sparsity, or no group is made by a convolution.
    """
    fraction = sparsity(amount)
    weights = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    kept: dict[str, Tensor] = {}
    for group, member in deciding_weights(model, groups).items():
        # s_j = sum_l sum |K_l| over the kernels K_l of filter F_j
        score = per_unit(member, slice_norms(weights[member.tensor], member.dim), group.size)
        kept |= keep_units({group.name: score}, fraction)
        if greedy:
            for reader, weight in weights_among(model, group.consumers):
                gone = (reader.units >= 0) & ~kept[group.name].cpu()[reader.units]
                weights[reader.tensor].index_fill_(reader.dim, gone.nonzero().flatten().to(weight.device), 0)
    if not kept:
        raise ValueError("model: nothing to prune, no filter of a convolution can be removed")
    return kept


def prune(
    model: nn.Module, batches: Batches, amount: Amount, *, train: Train | None = None, evaluate: object = None, greedy: bool = False
) -> nn.Module:
    """The network without its weakest filters, retrained if `train` is given.

    Args:
        batches: one example is taken, to follow the channels.
        amount: the fraction of each layer's filters to remove; one filter always stays.
        train: (model, callbacks) -> model.
        evaluate: not used.
        greedy: count the filters of each layer without the kernels that read maps already pruned.

    Raises:
        ValueError: `amount` is no sparsity, no batch, a NaN or infinite weight, or nothing can be removed.
    """
    sparsity(amount)
    groups = removable_groups(model, one_example(batches))
    small = remove(model, groups, filters_to_keep(model, groups, amount, greedy))
    return small if train is None else train(small)
