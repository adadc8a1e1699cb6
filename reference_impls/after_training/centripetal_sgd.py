"""C-SGD: similar filters are trained to become the same, and of each set of equal filters one stays (ding2019centripetal).

Idea: a filter that is zero can go, but so can a filter that equals another: what reads its map can read the other's instead, and the
columns add up. So sort each layer's filters into clusters and descend with a changed gradient: all members of a cluster follow the mean of
their gradients, and each is drawn to the cluster's centre. What moves them is then equal, what holds them apart shrinks by the same factor
at every step, and in the end nothing is lost at the cut. Layers whose maps a shortcut adds share their clusters, so this works there too.

Cost: a product with a small matrix per weight and step; k-means over each layer's filters once; one pass of a single example.

Implementation details
1. Gradients are averaged over a cluster in everything that makes its maps: weights, biases, the scales and shifts of normalizations.
2. All of these are drawn to the centre with the same strength, scales with a tenth of it, as in the authors' code.
3. Clusters come from k-means over the weights of the layer that decides: the projection where a shortcut has one, else the first layer.
4. At the cut the first filter of each cluster stays, and the columns that read it become the sum of the cluster's columns.
5. Strength 0.003 as in the authors' code for ResNet-56 (0.05 for ResNet-50), where training takes hundreds of epochs.

Deviations: the code puts weight decay into the changed gradient; here it is the optimizer's, which comes to the same. The code prunes in
a few rounds of growing sparsity; call it again for that. The paper was read through its abstract and its code, not in full.
"""

import copy

import torch
from sklearn.cluster import KMeans
from torch import Tensor, nn

from reference_impls.after_training.pruning_filters import deciding_weights
from reference_impls.core.amounts import Amount, Sparsity, sparsity
from reference_impls.core.groups import Group, Member
from reference_impls.core.masks import prunable_weights
from reference_impls.core.structures import LAYERS, removable_groups
from reference_impls.core.surgery import remove
from reference_impls.core.training import Callback

UNIT = "filter"
GROUP = "layer"
AMOUNTS = (Sparsity,)
NETWORK = "resnet8"
# fixed_mask does not hold: nothing is masked, the filters are gone
# idempotent does not hold: what is left would be sorted into fewer clusters again
TRAITS = frozenset({"exact_count", "identity_at_zero", "shrinks"})


def cluster(filters: Tensor, count: int, seed: int = 0) -> Tensor:
    """Sort filters into exactly `count` clusters by k-means: the number of its cluster for each, shape (filters,).

    Args:
        filters: shape (filters, ...).
        count: >= 1, at most as many as there are filters.
    """
    rows = filters.detach().flatten(1).double().cpu().numpy()
    if count == len(rows):
        return torch.arange(count)
    labels = torch.from_numpy(KMeans(count, n_init=10, random_state=seed).fit_predict(rows)).long()
    for empty in set(range(count)) - set(labels.tolist()):  # fewer different filters than clusters
        largest = labels.bincount(minlength=count).argmax()
        labels[(labels == largest).nonzero()[-1]] = empty
    return labels


def alike(member: Member, clusters: Tensor) -> Tensor:
    """Which indices of a tensor stand for each other: bool, shape (indices, indices); each for itself at least.

    Args:
        member: with one or several indices for each unit.
        clusters: the cluster of each unit.
    """
    units = member.units
    place = (units[:, None] == units).tril(-1).sum(1)  # of an index among those of its own unit
    inside = (units >= 0) & (units >= 0)[:, None]
    same = (clusters[units][:, None] == clusters[units]) & (place[:, None] == place) & inside
    return same | torch.eye(len(units), dtype=torch.bool)


def mix(matrix: Tensor, weight: Tensor, dim: int) -> Tensor:
    """The slices of a weight along a dimension, each replaced by a row's combination of all of them."""
    return torch.tensordot(matrix.to(weight), weight, ([1], [dim])).movedim(0, dim)


def centripetal_gradient(gradient: Tensor, weight: Tensor, averaging: Tensor, dim: int, strength: float) -> Tensor:
    """What the members of a cluster descend along: their mean gradient, and the way from their centre.

    Args:
        gradient: dL/dF.
        weight: F, of the same shape.
        averaging: rows of 1 / |H| over each cluster H, shape (size, size) for the size of dimension `dim`.
        strength: epsilon.
    """
    # sum_(k in H) dL/dF_k / |H|  +  epsilon (F_j - sum_(k in H) F_k / |H|)
    return mix(averaging, gradient, dim) + strength * (weight - mix(averaging, weight, dim))


class CentripetalSGD(Callback):
    """Clusters the filters before the first step, draws them together, and keeps one of each cluster.

    Attributes:
        clusters: group name -> the cluster of each unit.
    """

    def __init__(self, fraction: float, strength: float, seed: int) -> None:
        self.fraction, self.strength, self.seed = fraction, strength, seed

    def start(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        def record(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            hook.remove()
            self.sort(model, inputs[0][:1])

        hook = model.register_forward_pre_hook(record)

    def sort(self, model: nn.Module, example: Tensor) -> None:
        """Find the groups and their clusters, and what the members of each are averaged with."""
        self.groups = [group for group in removable_groups(model, example) if _mergeable(model, group)]
        deciding = deciding_weights(model, self.groups)
        self.groups = [group for group in self.groups if group in deciding]
        if not self.groups:
            raise ValueError("model: nothing to prune, no filter of a convolution can stand for another")
        self.clusters: dict[str, Tensor] = {}
        self.averaging: list[tuple[str, int, Tensor, float]] = []
        scales = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)}
        parameters = dict(model.named_parameters())
        for group in self.groups:
            left = group.size - min(round(self.fraction * group.size), group.size - 1)
            if left < group.size:
                member = deciding[group]
                weight = parameters[member.tensor].movedim(member.dim, 0)
                rows = torch.stack([weight[member.indices(unit)] for unit in range(group.size)])
                self.clusters[group.name] = clusters = cluster(rows, left, self.seed)
                for made in group.producers:
                    if made.tensor in parameters:
                        same = alike(made, clusters).to(weight)
                        strength = self.strength * (0.1 if made.tensor in scales else 1.0)
                        self.averaging.append((made.tensor, made.dim, same / same.sum(1, keepdim=True), strength))

    @torch.no_grad()
    def after_backward(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for name, dim, averaging, strength in self.averaging:
            weight = model.get_parameter(name)
            weight.grad = centripetal_gradient(weight.grad, weight, averaging, dim, strength)

    @torch.no_grad()
    def finish(self, model: nn.Module) -> nn.Module:
        merged, kept = copy.deepcopy(model), {}
        for group in self.groups:
            if group.name in self.clusters:
                clusters = self.clusters[group.name]
                kept[group.name] = ~(clusters[:, None] == clusters).tril(-1).any(1)  # the first of each
                for member in group.consumers:
                    weight = merged.get_parameter(member.tensor)
                    weight.copy_(mix(alike(member, clusters), weight, member.dim))
        return remove(merged, self.groups, kept)


def _mergeable(model: nn.Module, group: Group) -> bool:
    """Whether everything that reads the units is a linear map over all of them."""
    readers = [model.get_submodule(member.layer) for member in group.consumers]
    return group.exact and all(isinstance(reader, LAYERS) and getattr(reader, "groups", 1) == 1 for reader in readers)


def callbacks(
    model: nn.Module,
    amount: Amount,
    *,
    steps: int = 0,
    strength: float = 3e-3,
    generator: torch.Generator | None = None,
) -> list[Callback]:
    """Train a trained network on with these, and `fit` returns it with one filter of each cluster.

    Args:
        model: a trained network with convolutions.
        amount: the fraction of each layer's filters to remove; one always stays.
        steps: not used.
        strength: epsilon, >= 0. Distances within a cluster shrink by 1 - learning rate * strength at each step, sooner with momentum.
        generator: draws the seed of k-means; without it the seed is 0.

    Raises:
        ValueError: `amount` is no sparsity, `strength` is negative, a weight is NaN or infinite, or nothing can be removed.
    """
    fraction = sparsity(amount)
    prunable_weights(model)
    if not strength >= 0:
        raise ValueError(f"strength: {strength} is not >= 0")
    seed = 0 if generator is None else int(torch.randint(2**31, (), generator=generator))
    return [CentripetalSGD(fraction, strength, seed)]
