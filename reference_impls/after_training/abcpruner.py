"""ABCPruner: an artificial bee colony searches how many channels each layer keeps (lin2020channel).

Idea: what matters is the structure, how many channels a layer has, and not which of them it keeps. So the channels are drawn at
random, and only the numbers are searched, of which each layer may take few: 10, 20, ... per cent, up to a limit. A structure is
a nectar source. Employed bees try a structure near every source, onlookers try more near the good ones, and a scout replaces a
source that no bee has made better for long. What a structure is worth, the accuracy after a short fine-tuning tells.

Cost: 2 `sources` + 1 networks per cycle at most, each fine-tuned for `epochs` and evaluated; fine-tuning once, at the end.

Implementation details (of the authors' code)
1. A neighbour of a source changes at `changes` layers, drawn with replacement, by a random part, between -1 and 1, of the
   distance to another source; a fraction is cut off towards zero, and the number held between 1 and the limit.
2. A bee's find replaces the source only if it is better; if not, the source has one more trial.
3. Onlookers pass the sources in turn and stop at each with probability 0.9 fit / max fit + 0.1, until as many have stopped as there
   are sources. The probabilities are those at the end of the employed bees' flights.
4. One scout at most per cycle: the source of most trials is drawn anew if these have reached `limit`.
5. The weights of the best structure ever tried, as its short fine-tuning has left them, are where the last training starts.

Deviations: the paper limits what each layer keeps; here `amount` says what it loses at least, 1 minus the limit, in tenths. All layers
can change and all numbers can be drawn by a scout; the authors' code draws neither the last layer nor the limit, it seems by
oversight. Dependency groups are searched, shortcuts included (the authors: one number for each block's inner layer).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from reference_impls.core.amounts import Amount, Sparsity, sparsity
from reference_impls.core.structures import one_example, removable_groups
from reference_impls.core.surgery import remove
from reference_impls.core.training import Batches, Train, fit, momentum_sgd

UNIT = "channel"
GROUP = "layer"
AMOUNTS = (Sparsity,)
NETWORK = "resnet8"
QUICK = {"sources": 2, "cycles": 1, "epochs": 0}  # to see that it runs; far too few to learn
# exact_count does not hold: a layer may lose more than is asked, that is what is searched; so identity_at_zero does not hold either,
# nor idempotent; weights_only does not hold: a structure is judged by its accuracy
TRAITS = frozenset({"shrinks"})

PARTS = 10  # a layer keeps whole tenths of its channels
Structure = list[int]  # tenths that each layer keeps, 1 ... the limit


@dataclass
class Source:
    """A structure, its fitness, and how many bees in a row have found nothing better near it."""

    structure: Structure
    fitness: float
    trials: int = 0


def neighbour(structure: Structure, other: Structure, places: Sequence[int], parts: Sequence[float], most: int) -> Structure:
    """The structure, moved at some places by a part of its distance to another one.

    Args:
        places: layers that change; of a layer drawn twice the last change counts.
        parts: r, one per place, in [-1, 1].
        most: the largest number a layer may take.
    """
    found = list(structure)
    for place, part in zip(places, parts, strict=True):
        # G'_ij = G_ij + r (G_ij - G_gj)
        found[place] = min(max(int(structure[place] + part * (structure[place] - other[place])), 1), most)
    return found


class Colony:
    """Bees that look for the structure of highest fitness.

    Attributes:
        sources: the structures that bees fly to.
        best: the fittest structure ever tried, and its fitness.
    """

    def __init__(
        self,
        layers: int,
        most: int,
        fitness: Callable[[Structure], float],
        sources: int = 10,
        limit: int = 5,
        changes: int = 2,
        generator: torch.Generator | None = None,
    ) -> None:
        if sources < 2:
            raise ValueError(f"sources: {sources} is below 2, and a neighbour lies towards another source")
        self.layers, self.most, self.fitness, self.limit, self.changes, self.generator = layers, most, fitness, limit, changes, generator
        self.best: tuple[Structure, float] = ([], -math.inf)
        self.sources = [self.drawn() for _ in range(sources)]

    def tried(self, structure: Structure) -> Source:
        value = self.fitness(structure)
        if value > self.best[1]:
            self.best = (structure, value)
        return Source(structure, value)

    def drawn(self) -> Source:
        return self.tried(torch.randint(1, self.most + 1, (self.layers,), generator=self.generator).tolist())

    def fly(self, place: int) -> None:
        """One bee tries a neighbour of the source at this place, and replaces it if that is better."""
        source = self.sources[place]
        other = (place + int(torch.randint(1, len(self.sources), (), generator=self.generator))) % len(self.sources)
        layers = torch.randint(self.layers, (self.changes,), generator=self.generator).tolist()
        parts = (2 * torch.rand(self.changes, generator=self.generator) - 1).tolist()
        found = self.tried(neighbour(source.structure, self.sources[other].structure, layers, parts, self.most))
        if found.fitness > source.fitness:
            self.sources[place] = found
        else:
            source.trials += 1

    def chances(self) -> list[float]:
        """How probably an onlooker stops at each source; 0.1 for all if none is worth anything."""
        highest = max(source.fitness for source in self.sources)
        # P_i = 0.9 fit_i / max_j fit_j + 0.1
        return [0.9 * source.fitness / highest + 0.1 if highest > 0 else 0.1 for source in self.sources]

    def cycle(self) -> None:
        """Employed bees, onlookers, and a scout."""
        for place in range(len(self.sources)):
            self.fly(place)
        chances, stopped, place = self.chances(), 0, 0
        while stopped < len(self.sources):
            if float(torch.rand((), generator=self.generator)) < chances[place]:
                self.fly(place)
                stopped += 1
            place = (place + 1) % len(self.sources)
        worn = max(range(len(self.sources)), key=lambda place: self.sources[place].trials)
        if self.sources[worn].trials >= self.limit:
            self.sources[worn] = self.drawn()


def random_channels(size: int, tenths: int, generator: torch.Generator | None = None) -> Tensor:
    """Which channels stay, at least one: bool, shape (size,), True = kept."""
    keep = torch.zeros(size, dtype=torch.bool)
    keep[torch.randperm(size, generator=generator)[: max(1, size * tenths // PARTS)]] = True
    return keep


def prune(
    model: nn.Module,
    batches: Batches,
    amount: Amount,
    *,
    train: Train | None = None,
    evaluate: Callable[[nn.Module], float] | None = None,
    sources: int = 10,
    cycles: int = 10,
    limit: int = 5,
    changes: int = 2,
    epochs: int = 2,
    generator: torch.Generator | None = None,
) -> nn.Module:
    """The network of the best structure that the bees have found, fine-tuned if `train` is given.

    Args:
        batches: what a structure is fine-tuned on before it is judged.
        amount: the fraction of its channels that each layer loses at least, up to 0.9; tenths count, 0.55 is taken as 0.6.
        train: (model, callbacks) -> model.
        evaluate: model -> accuracy in [0, 1], on images held out from training.
        sources: structures at a time, >= 2.
        cycles: of the search.
        limit: trials in vain after which a scout may replace a source.
        changes: layers that a bee changes.
        epochs: of fine-tuning before a structure is judged; 0 = none.
        generator: draws structures and channels.

    Raises:
        ValueError: `amount` is no sparsity or above 0.9, no batch, no `evaluate`, a NaN weight, or nothing can be removed.
    """
    most = math.floor(round(PARTS * (1 - sparsity(amount)), 6))
    if most < 1:
        raise ValueError(f"amount: sparsity {sparsity(amount)} is above 0.9, and a layer keeps at least a tenth of its channels")
    groups = removable_groups(model, one_example(batches))
    if evaluate is None:
        raise ValueError("evaluate: the fitness needs evaluate(model) -> accuracy")
    fittest: tuple[float, nn.Module] = (-math.inf, model)

    def fitness(structure: Structure) -> float:
        nonlocal fittest
        kept = {g.name: random_channels(g.size, tenths, generator) for g, tenths in zip(groups, structure, strict=True)}
        small = remove(model, groups, kept)
        if epochs:
            small = fit(small, batches, epochs, optimizer=lambda weights: momentum_sgd(weights, 0.01))
        value = evaluate(small)
        if value > fittest[0]:
            fittest = (value, small)
        return value

    colony = Colony(len(groups), most, fitness, sources, limit, changes, generator)
    for _ in range(cycles):
        colony.cycle()
    return fittest[1] if train is None else train(fittest[1])
