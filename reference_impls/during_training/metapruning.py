"""MetaPruning: one network learns to write the weights of every pruned structure, evolution picks a structure (liu2019metapruning).

Idea: how good a structure is, one knows only after training it. So train a PruningNet instead: beside each layer two small linear layers
read how many channels the layer and its neighbours keep, and write the layer's weights, of which the first channels are taken. While it
trains, every step draws another structure. Afterwards any structure gets its weights, and its accuracy, at once; an evolutionary search
tries many within the budget. The best is trained from scratch.

Cost: training the PruningNet, `hidden` times the network's weights; one calibration and evaluation per structure; a last training.

Implementation details (of the authors' code)
1. The numbers are 10, 13, ... 100 per cent of a layer's channels; 32 hidden units; a rectifier between the two linear layers.
2. Batch normalization has neither scale nor shift while the PruningNet trains; each structure's statistics are measured anew.
3. Search: the best `parents` of all structures tried are mutated (each number, with probability 0.1, becomes another) and crossed
   (each number from one or the other of two); random structures fill up the rest. No structure is tried twice.

Deviations: a layer reads the numbers of the dependency groups that it touches (the authors: those of its block). Only a highest cost is
given, no lowest. What is cut is zero, which comes to the same: normalization without a shift leaves zeros zero. A random structure that is
too dear is narrowed at random until it fits (theirs: drawn again). Statistics average over all batches (theirs: moving, over 100). The
winner starts from the first channels of the given network: give an untrained one, to train from scratch.
"""

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from reference_impls.core.amounts import Amount, Budget, as_amount
from reference_impls.core.groups import Group
from reference_impls.core.structures import Costs, one_example, removable_groups, weights_among
from reference_impls.core.surgery import remove
from reference_impls.core.training import Batches, Train, needed

UNIT = "channel"
GROUP = "network"
AMOUNTS = (Budget,)
NETWORK = "resnet8"
QUICK = {"generations": 2, "population": 4, "hidden": 4}  # to see that it runs; far too few to learn
# idempotent does not hold: the search may find a narrower structure; exact_count does not apply to a budget
TRAITS = frozenset({"shrinks"})

SCALES = tuple((10 + 3 * place) / 100 for place in range(31))  # what fraction of its channels a layer can keep
Structure = tuple[int, ...]  # per group a place in SCALES
NORMS = nn.modules.batchnorm._BatchNorm


def numbers(groups: Sequence[Group], structure: Structure) -> list[int]:
    """How many units each group keeps."""
    return [max(1, int(group.size * SCALES[place])) for group, place in zip(groups, structure, strict=True)]


class PruningNet(nn.Module):
    """A network whose weights follow from a structure; in training from one that it draws.

    Attributes:
        structure: the one to take; None = draw one for every training batch, and take the widest in evaluation.
        network: what runs with the written weights. Layers that no group touches keep weights of their own, and biases do.
    """

    def __init__(self, model: nn.Module, groups: Sequence[Group], hidden: int = 32, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.groups, self.generator = groups, generator
        self.structure: Structure | None = None
        self.network = copy.deepcopy(model)
        touching: dict[str, list[int]] = {}  # weight -> groups that touch it
        for place, group in enumerate(groups):
            for member, _ in weights_among(model, group.members):
                touching.setdefault(member.tensor, []).append(place)
            for member in group.producers:
                if isinstance(layer := self.network.get_submodule(member.layer), NORMS):
                    layer.affine, layer.weight, layer.bias = False, None, None
        self.touching = {name: sorted(set(places)) for name, places in touching.items()}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
            self.writers = nn.ModuleList()
            for name, places in self.touching.items():
                weight = self.network.get_parameter(name).requires_grad_(False)
                writer = nn.Sequential(nn.Linear(len(places), hidden), nn.ReLU(), nn.Linear(hidden, weight.numel()))
                self.writers.append(writer.to(weight))
        parameters = dict(self.network.named_parameters())
        self.made = [(m, place) for place, group in enumerate(groups) for m in group.producers if m.tensor in parameters]

    def write(self, structure: Structure) -> dict[str, Tensor]:
        """The weights of all layers that a group touches, in full size and uncut: parameter name -> tensor."""
        written = {}
        for (name, places), writer in zip(self.touching.items(), self.writers, strict=True):
            weight = self.network.get_parameter(name)
            # W = fc2(relu(fc1(the fractions kept)))
            written[name] = writer(weight.new_tensor([SCALES[structure[place]] for place in places])).view_as(weight)
        return written

    def weights(self, structure: Structure) -> dict[str, Tensor]:
        """What a structure runs with, in full size, zero where it is cut: parameter name -> tensor."""
        written, kept = self.write(structure), numbers(self.groups, structure)
        for member, place in self.made:
            tensor = written.get(member.tensor, self.network.get_parameter(member.tensor))
            keep = (member.units < kept[place]).to(tensor)  # the first stay, and what belongs to no unit
            written[member.tensor] = tensor * keep.view([-1 if dim == member.dim else 1 for dim in range(tensor.dim())])
        return written

    def forward(self, *inputs: Tensor) -> Tensor:
        structure = self.structure
        if structure is None:
            drawn = torch.randint(len(SCALES), (len(self.groups),), generator=self.generator).tolist()
            structure = tuple(drawn) if self.training else (len(SCALES) - 1,) * len(self.groups)
        return torch.func.functional_call(self.network, self.weights(structure), inputs)

    @torch.no_grad()
    def take(self, structure: Structure, batches: Batches) -> "PruningNet":
        """Be this structure from now on, with batch normalization's statistics measured anew; returns itself."""
        self.structure = structure
        for norm in self.modules():
            if isinstance(norm, NORMS):
                norm.reset_running_stats()
                norm.momentum = None  # the plain average over batches
        self.train()
        for inputs, _ in batches:
            self(inputs)
        return self.eval()


def mutate(parent: Structure, generator: torch.Generator | None = None, chance: float = 0.1) -> Structure:
    """Each place moves, with the given chance, to another."""
    moves = torch.randint(1, len(SCALES), (len(parent),), generator=generator).tolist()
    moving = (torch.rand(len(parent), generator=generator) < chance).tolist()
    return tuple((place + move * now) % len(SCALES) for place, move, now in zip(parent, moves, moving, strict=True))


def cross(one: Structure, other: Structure, generator: torch.Generator | None = None) -> Structure:
    """Each place from one or the other."""
    first = torch.randint(2, (len(one),), generator=generator).tolist()
    return tuple(a if chosen else b for a, b, chosen in zip(one, other, first, strict=True))


def search(
    places: int,
    fits: Callable[[Structure], bool],
    fitness: Callable[[Structure], float],
    generations: int = 20,
    population: int = 50,
    parents: int = 10,
    generator: torch.Generator | None = None,
) -> dict[Structure, float]:
    """All structures tried, with their fitness, the best first.

    Args:
        places: numbers in a structure.
        fits: whether a structure is within the budget; the narrowest is.
        population: structures tried per generation: half of them mutated, half crossed, as far as they fit and are new.
    """

    def drawn() -> Structure:
        structure = torch.randint(len(SCALES), (places,), generator=generator).tolist()
        while not fits(tuple(structure)):
            wide = [place for place, number in enumerate(structure) if number > 0]
            structure[wide[int(torch.randint(len(wide), (), generator=generator))]] -= 1
        return tuple(structure)

    def pick(best: list[Structure], number: int) -> list[Structure]:
        return [best[place] for place in torch.randperm(len(best), generator=generator)[:number].tolist()]

    tried: dict[Structure, float] = {}
    for _ in range(generations):
        best = list(tried)[:parents]
        fresh: dict[Structure, None] = {}
        ways = [(population // 2, lambda: mutate(*pick(best, 1), generator))] if best else []  # noqa: B023 (called within the loop)
        ways += [(population - population // 2, lambda: cross(*pick(best, 2), generator))] if len(best) > 1 else []  # noqa: B023 (called within the loop)
        for number, make in [*ways, (population, drawn)]:
            until = min(population, len(fresh) + number)
            for _ in range(10 * population):
                if len(fresh) == until:
                    break
                made = make()
                if made not in tried and fits(made):
                    fresh[made] = None
        tried |= {structure: fitness(structure) for structure in fresh}
        tried = dict(sorted(tried.items(), key=lambda pair: -pair[1]))
    return tried


def prune(
    model: nn.Module,
    batches: Batches,
    amount: Amount,
    *,
    train: Train | None = None,
    evaluate: Callable[[nn.Module], float] | None = None,
    generations: int = 20,
    population: int = 50,
    parents: int = 10,
    hidden: int = 32,
    generator: torch.Generator | None = None,
) -> nn.Module:
    """The best structure within the budget, trained.

    Args:
        batches: measure batch normalization's statistics for every structure.
        amount: `Budget(macs=...)`, the most that one example may cost.
        train: (model, callbacks) -> model; trains the PruningNet, and then the winner.
        evaluate: model -> accuracy in [0, 1], on images held out from training.

    Raises:
        ValueError: `amount` is no budget of macs or out of reach, no batch, no `train` or `evaluate`, a NaN weight, or nothing can go.
    """
    budget = as_amount(amount, Budget).macs
    if budget is None:
        raise ValueError(f"amount: {amount!r}; this method counts multiply-accumulates, Budget(macs=...)")
    example = one_example(batches)
    groups = removable_groups(model, example)
    costs = Costs(model, groups, example)
    cost = lambda structure: costs(dict(zip((group.name for group in groups), numbers(groups, structure), strict=True)))
    if (least := cost((0,) * len(groups))) > budget:
        raise ValueError(f"amount: a budget of {budget:g} is out of reach, the least is {least:g}")
    if evaluate is None:
        raise ValueError("evaluate: the search needs evaluate(model) -> accuracy")
    net = needed(train)(PruningNet(model, groups, hidden, generator))
    fitness = lambda structure: evaluate(net.take(structure, batches))
    tried = search(len(groups), lambda structure: cost(structure) <= budget, fitness, generations, population, parents, generator)
    counts = numbers(groups, next(iter(tried)))
    return train(remove(model, groups, {g.name: torch.arange(g.size) < count for g, count in zip(groups, counts, strict=True)}))
