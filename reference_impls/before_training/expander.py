"""Expander pruning: before training and without data, each layer's channels are joined by a random regular graph (stewart2023data).

Idea: when neither data nor gradients may be looked at, only the structure is left. Good sparse structures are expanders: few edges, but
every set of channels has many neighbours, so information mixes quickly. Random regular bipartite graphs are expanders with high
probability, better ones than graphs whose edges are drawn independently; of several draws the one that expands most is taken.

Cost: drawing graphs; no data is looked at.

Implementation details
1. An edge joins an input and an output channel, and stands for the whole kernel between them.
2. All layers have the same degree d: on the larger side of a layer (inputs or outputs) every channel has d edges, on the other side the
   edges are dealt out evenly. A layer with at most d channels on a side is dense.
3. Expansion is estimated from random sets of at most half of a side, by the mean ratio of neighbours to members, both sides alike.

Deviations: the authors ask for a degree; here a sparsity is asked, and the largest degree, not always whole, whose weights do not exceed it
is taken (degrees of a side then differ by at most one). Their configuration model merges double edges, so that degrees come out lower;
here a graph with the exact degrees is mixed by random trades of neighbours between two channels. They take the best of 100 graphs, here
of 10 by default, and leave the last layer dense, here it is a layer like the others.
"""

import numpy as np
import torch
from torch import nn

from reference_impls.core.amounts import Amount, Sparsity, sparsity
from reference_impls.core.masks import Masks, prunable_weights
from reference_impls.core.training import Batches

UNIT = "kernel"
GROUP = "network"
AMOUNTS = (Sparsity,)
NETWORK = "lenet_300_100"
QUICK = {"graphs": 2}
# no exact_count: whole kernels go; weights_only is said of their shapes; not idempotent: another graph would be drawn
TRAITS = frozenset({"fixed_mask", "identity_at_zero", "weights_only"})


def dealt_out(edges: int, vertices: int) -> np.ndarray:
    """Degrees (vertices,) that sum to `edges` and differ by at most one."""
    return edges // vertices + (np.arange(vertices) < edges % vertices)


def random_regular_graph(inputs: int, outputs: int, edges: int, random: np.random.Generator, trades: int = 5) -> np.ndarray:
    """A random bipartite graph without double edges, whose degrees differ by at most one on either side: bool (outputs, inputs).

    Args:
        inputs: vertices of one side.
        outputs: of the other.
        edges: between 0 and inputs * outputs.
        random: draws it.
        trades: how often every output trades neighbours with another one.
    """
    # consecutive runs of inputs around the circle: every input is met once before one is met twice
    graph = np.zeros((outputs, inputs), dtype=bool)
    graph[np.repeat(np.arange(outputs), dealt_out(edges, outputs)), np.arange(edges) % inputs] = True
    graph = graph[random.permutation(outputs)][:, random.permutation(inputs)]
    for _ in range(trades if outputs > 1 else 0):
        for first in range(outputs):
            second = (first + random.integers(1, outputs)) % outputs
            # what only one of the two has is mixed, and each gets as many as before
            apart = np.flatnonzero(graph[first] ^ graph[second])
            own = int(graph[first, apart].sum())
            mixed = random.permutation(apart)
            graph[first, mixed[:own]], graph[first, mixed[own:]] = True, False
            graph[second, mixed[:own]], graph[second, mixed[own:]] = False, True
    return graph


def expansion(graph: np.ndarray, random: np.random.Generator, sets: int = 200) -> float:
    """Mean over random vertex sets of neighbours / members, half of the sets on either side.

    Args:
        graph: bool (outputs, inputs).
        random: draws the sets, of 1 to half of a side's vertices.
        sets: per side.
    """
    ratios = []
    for adjacency in (graph, graph.T):
        size = random.integers(1, max(len(adjacency) // 2, 1), (sets, 1), endpoint=True)
        members = random.random((sets, len(adjacency))).argsort(1).argsort(1) < size
        neighbours = (members.astype(np.float32) @ adjacency.astype(np.float32) > 0).sum(1)
        # |N(S)| / |S|
        ratios.append((neighbours / size[:, 0]).mean())
    return float(np.mean(ratios))


def edges_per_layer(model: nn.Module, amount: Amount) -> dict[str, int]:
    """How many kernels each layer keeps, at the largest common degree whose weights do not exceed what may stay.

    Args:
        model: only the shapes of its weights are read.
        amount: the fraction of all linear and convolution weights to prune, in [0, 1).

    Raises:
        ValueError: the amount is no sparsity, a weight is NaN or infinite, or there is nothing to prune.
    """
    shapes = {name: weight.shape for name, weight in prunable_weights(model).items()}
    total = sum(shape.numel() for shape in shapes.values())
    stay = total - round(sparsity(amount) * total)

    def edges(degree: float) -> dict[str, int]:
        return {name: min(int(degree * max(shape[:2])), shape[0] * shape[1]) for name, shape in shapes.items()}

    low, high = 0.0, float(max(min(shape[:2]) for shape in shapes.values()))
    if stay == total:
        return edges(high)
    for _ in range(60):
        middle = (low + high) / 2
        fits = sum(count * shapes[name][2:].numel() for name, count in edges(middle).items()) <= stay
        low, high = (middle, high) if fits else (low, middle)
    return edges(low)


def masks(model: nn.Module, batches: Batches, amount: Amount, *, graphs: int = 10, generator: torch.Generator | None = None) -> Masks:
    """Masks that are random regular graphs between channels, in each layer the one of `graphs` that expands most.

    Args:
        model: at initialization; left as it is.
        batches: not used.
        amount: the fraction of all linear and convolution weights to prune, in [0, 1); at least that many go.
        graphs: drawn per layer, at least 1.
        generator: decides the draws; without it PyTorch's global random state.

    Raises:
        ValueError: as `edges_per_layer`, or fewer than one graph.
    """
    if graphs < 1:
        raise ValueError(f"graphs: {graphs} is below 1")
    counts = edges_per_layer(model, amount)
    device = generator.device if generator else "cpu"
    random = np.random.default_rng(int(torch.randint(2**62, (), generator=generator, device=device)))
    kept: Masks = {}
    for name, weight in prunable_weights(model).items():
        outputs, inputs = weight.shape[:2]
        drawn = [random_regular_graph(inputs, outputs, counts[name], random) for _ in range(graphs)]
        best = max(drawn, key=lambda graph: expansion(graph, random))
        mask = torch.from_numpy(best).view(outputs, inputs, *[1] * (weight.ndim - 2))
        kept[name] = mask.expand(weight.shape).clone().to(weight.device)
    return kept
