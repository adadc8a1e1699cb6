"""DHP: hypernetworks write each convolution from latent vectors, whose entries a proximal operator shrinks to zero (li2020dhp).

Idea: a search for the width of each layer takes long, as nothing can be differentiated. So give every layer a latent vector with
one entry per output channel, and let a small hypernetwork write the layer's weights from its own latent vector and that of the
layer before. Gradients train hypernetworks and latent vectors; after each step all latent vectors are shrunk towards zero.
Where an entry has vanished, the output channel goes here and the input channel there: the widths come out of one training.

Cost: in training about 2 `embedding` times the weights; nothing in the network that comes out. The trained widths are trained on.

Implementation details (of the authors' code)
1. Z = z_out z_in^T + B_0; each number of Z becomes a vector by w_1 and b_1 of its own, and that the kernel by w_2 and b_2 of its own.
2. w_1 and w_2 start uniformly, with a variance that fits what the layer reads; biases at zero, latent vectors normally distributed.
3. The proximal operator of the l1 norm comes after each step, with the penalty's factor times the learning rate, to the latent
   vectors that still have more than `least` entries of `threshold` or more; it rests once the network is small enough.
4. Layers that a shortcut adds together share one latent vector. The input image has one of its own, which is not shrunk.
5. When the search has ended, the written weights become ordinary ones, are cut, and train on without hypernetworks.

Deviations: if training ends before the network is small enough, the smallest entries go until it is. The authors' search runs until
the ratio is reached, and ends there; here it trains to its end. Their last stage is not cut, nor are linear layers written; here
the classifier loses the columns of cut channels. The given weights of written layers are not used: training is from scratch.
"""

import copy
import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from reference_impls.core.amounts import Amount, Budget, as_amount
from reference_impls.core.groups import Group
from reference_impls.core.rounds import made_by_convolutions
from reference_impls.core.structures import Costs, one_example, removable_groups, weights_among
from reference_impls.core.surgery import remove
from reference_impls.core.training import Batches, Callback, Train, needed

UNIT = "channel"
GROUP = "network"
AMOUNTS = (Budget,)
NETWORK = "resnet8"
# idempotent does not hold: the weights are trained anew; exact_count does not apply to a budget
TRAITS = frozenset({"shrinks"})

Cost = Callable[[Mapping[str, int]], float]  # of numbers of kept units per group


class Latent(nn.Module):
    """The latent vector along one dimension of a layer, put together from those of the groups that share it.

    Attributes:
        vectors: one per group, shared by all layers that the group touches.
        own: entries of no group; None if there is none.
    """

    def __init__(self, size: int, parts: Sequence[tuple[str, nn.Parameter, Tensor]]) -> None:
        super().__init__()
        self.names = [name for name, _, _ in parts]
        self.vectors = nn.ParameterList([vector for _, vector, _ in parts])
        self.units = [units for _, _, units in parts]
        covered = sum(((units >= 0).sum() for units in self.units), torch.tensor(0))
        self.own = nn.Parameter(torch.randn(size)) if covered < size else None

    def forward(self) -> Tensor:
        vector = self.own
        for part, units in zip(self.vectors, self.units, strict=True):
            units = units.to(part.device)
            rest = torch.zeros_like(units, dtype=part.dtype) if vector is None else vector
            vector = torch.where(units >= 0, part[units.clamp(min=0)], rest)
        return vector


class Hypernetwork(nn.Module):
    """Writes the weights (outputs, inputs, *kernel) of a convolution."""

    def __init__(self, shape: torch.Size, latent_out: Latent, latent_in: Latent, embedding: int) -> None:
        super().__init__()
        self.shape, kernel = shape, shape[2:].numel()
        self.latent_out, self.latent_in = latent_out, latent_in
        pairs = tuple(shape[:2])
        self.bias0 = nn.Parameter(torch.zeros(pairs))
        self.weight1 = nn.Parameter(torch.empty(*pairs, embedding).uniform_(-math.sqrt(3), math.sqrt(3)))
        self.bias1 = nn.Parameter(torch.zeros(*pairs, embedding))
        bound = math.sqrt(3 / (embedding * shape[1] * kernel))
        self.weight2 = nn.Parameter(torch.empty(*pairs, kernel, embedding).uniform_(-bound, bound))
        self.bias2 = nn.Parameter(torch.zeros(*pairs, kernel))

    def forward(self, _: Tensor) -> Tensor:
        # Z = z_out z_in^T + B_0
        matrix = torch.outer(self.latent_out(), self.latent_in()) + self.bias0
        # E_ij = Z_ij w_1ij + b_1ij
        embedded = matrix[..., None] * self.weight1 + self.bias1
        # O_ij = W_2ij E_ij + b_2ij
        return ((self.weight2 @ embedded[..., None])[..., 0] + self.bias2).view(self.shape)


def hyper(model: nn.Module, groups: Sequence[Group], embedding: int = 8, generator: torch.Generator | None = None) -> nn.Module:
    """A copy of the model whose convolutions beside the groups' channels are written by hypernetworks."""
    network = copy.deepcopy(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        sides: dict[str, dict[int, list[tuple[str, nn.Parameter, Tensor]]]] = {}  # layer -> dimension -> parts of its latent vector
        for group in groups:
            vector = nn.Parameter(torch.randn(group.size))
            for member, _ in weights_among(model, group.members):
                if isinstance(model.get_submodule(member.layer), nn.modules.conv._ConvNd):
                    sides.setdefault(member.layer, {}).setdefault(member.dim, []).append((group.name, vector, member.units))
        for name, dims in sides.items():
            layer = network.get_submodule(name)
            latents = [Latent(layer.weight.shape[dim], dims.get(dim, [])) for dim in (0, 1)]
            writer = Hypernetwork(layer.weight.shape, *latents, embedding).to(layer.weight)
            layer.weight.requires_grad_(False)
            parametrize.register_parametrization(layer, "weight", writer)
    return network


def latents(network: nn.Module) -> dict[str, nn.Parameter]:
    """Group -> its latent vector."""
    found = [module for module in network.modules() if isinstance(module, Latent)]
    return {name: vector for latent in found for name, vector in zip(latent.names, latent.vectors, strict=True)}


def proximal(vector: Tensor, strength: float) -> Tensor:
    """What minimizes half the squared distance to the vector plus `strength` times its l1 norm."""
    # prox(z) = sign(z) max(|z| - lambda mu, 0)
    return vector.sign() * (vector.abs() - strength).clamp(min=0)


def thresholded(vectors: Mapping[str, Tensor], threshold: float, least: int) -> dict[str, Tensor]:
    """Which entries reach the threshold, the `least` largest of a vector in any case: group -> bool, True = kept."""
    kept = {name: vector.abs() >= threshold for name, vector in vectors.items()}
    for name, vector in vectors.items():
        kept[name][vector.abs().topk(min(least, len(vector))).indices] = True
    return kept


def counts(kept: Mapping[str, Tensor]) -> dict[str, int]:
    """How many units each group keeps."""
    return {name: int(mask.sum()) for name, mask in kept.items()}


def cut(vectors: Mapping[str, Tensor], threshold: float, least: int, cost: Cost, budget: float) -> dict[str, Tensor]:
    """As `thresholded`, with the lowest higher threshold that meets the budget, if the given one does not.

    Raises:
        ValueError: the budget is out of reach.
    """
    higher = sorted({entry for vector in vectors.values() for entry in vector.abs().tolist() if entry > threshold})
    for value in (threshold, *higher, math.inf):
        kept = thresholded(vectors, value, least)
        if cost(counts(kept)) <= budget:
            return kept
    raise ValueError(f"amount: a budget of {budget:g} is out of reach, the least is {cost(counts(kept)):g}")


class Proximal(Callback):
    """Shrinks the latent vectors after every step, until the network is small enough."""

    def __init__(self, strength: float, threshold: float, least: int, cost: Cost, budget: float) -> None:
        self.strength, self.threshold, self.least, self.cost, self.budget = strength, threshold, least, cost, budget

    @torch.no_grad()
    def after_step(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        vectors = latents(model)
        if self.cost(counts(thresholded(vectors, self.threshold, self.least))) <= self.budget:
            return
        for vector in vectors.values():
            if (vector.abs() >= self.threshold).sum() > self.least:
                vector.copy_(proximal(vector, self.strength * optimizer.param_groups[0]["lr"]))


def prune(
    model: nn.Module,
    batches: Batches,
    amount: Amount,
    *,
    train: Train | None = None,
    evaluate: object = None,
    strength: float = 1e-4,
    threshold: float = 5e-3,
    least: int = 4,
    embedding: int = 8,
    generator: torch.Generator | None = None,
) -> nn.Module:
    """The network of the widths that the latent vectors have come to, trained on.

    Args:
        batches: one example is taken, to count costs and follow the channels.
        amount: `Budget(macs=...)`, the most that one example may cost.
        train: (model, callbacks) -> model; trains hypernetworks and latent vectors first, the cut network then.
        evaluate: not used.
        strength: lambda. What a small network needs in few steps is larger than the default.
        threshold: below it an entry counts as zero.
        least: channels of each group that stay in any case, >= 1.
        embedding: length of the vector that a number of Z becomes.
        generator: draws hypernetworks and latent vectors.

    Raises:
        ValueError: `amount` is no budget of macs or out of reach, no batch, no `train`, a NaN weight, or nothing can be removed.
    """
    budget = as_amount(amount, Budget).macs
    if budget is None:
        raise ValueError(f"amount: {amount!r}; this method counts multiply-accumulates, Budget(macs=...)")
    example = one_example(batches)
    groups = made_by_convolutions(model, removable_groups(model, example))
    cost = Costs(model, groups, example)
    cut({group.name: torch.zeros(group.size) for group in groups}, threshold, least, cost, budget)  # raises if out of reach
    network = needed(train)(hyper(model, groups, embedding, generator), [Proximal(strength, threshold, least, cost, budget)])
    kept = cut({name: vector.detach() for name, vector in latents(network).items()}, threshold, least, cost, budget)
    for module in network.modules():
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
            module.weight.requires_grad_(True)
    return train(remove(network, groups, kept))
