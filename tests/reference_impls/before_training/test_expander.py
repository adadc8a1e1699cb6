"""Expander pruning (stewart2023data): by hand, by singular values, against all vertex sets, and its claim."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from reference_impls.before_training import expander
from reference_impls.core.masks import prunable_weights
from reference_impls.core.training import HoldMasks, accuracy, fit
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import convnet


def test_degrees_by_hand():
    assert expander.dealt_out(7, 3).tolist() == [3, 2, 2]
    assert expander.dealt_out(6, 3).tolist() == [2, 2, 2]


def test_one_degree_for_all_layers_by_hand():
    # 6 -> 4 and 4 -> 2, 32 weights, 16 stay: degree 10/6 = 1.67 gives int(6 d) = 10 and int(4 d) = 6 edges; at 7/4 it would be 17
    model = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 2))
    assert expander.edges_per_layer(model, 0.5) == {"0.weight": 10, "1.weight": 6}
    # at 0.125, 28 stay: with degree 2 the second layer is dense, 8 edges, and the first has 20 at degree 20/6
    assert expander.edges_per_layer(model, 0.125) == {"0.weight": 20, "1.weight": 8}
    assert expander.edges_per_layer(model, 0.0) == {"0.weight": 24, "1.weight": 8}
    # a kernel of 3 x 3 costs nine: 28 of 54 may stay, so three kernels, 27 weights
    assert expander.edges_per_layer(nn.Sequential(nn.Conv2d(2, 3, 3)), 26 / 54) == {"0.weight": 3}
    # 5 x 5 from 2 to 3 and 1 x 1 from 3 to 4, 162 weights, 80 stay: at degree 5/4, 3 kernels of 25 and 5 of 1
    assert expander.edges_per_layer(nn.Sequential(nn.Conv2d(2, 3, 5), nn.Conv2d(3, 4, 1)), 82 / 162) == {"0.weight": 3, "1.weight": 5}
    assert expander.edges_per_layer(nn.Sequential(nn.Conv2d(4, 4, 1)), 0.25) == {"0.weight": 12}
    assert expander.edges_per_layer(nn.Sequential(nn.Linear(6, 4)), 22 / 24) == {"0.weight": 2}


@pytest.mark.parametrize(
    ("inputs", "outputs", "edges"), [(12, 8, 24), (8, 12, 24), (7, 5, 18), (5, 7, 0), (4, 4, 16), (1, 6, 3), (6, 1, 4), (5, 2, 7)]
)
def test_degrees_differ_by_at_most_one_and_no_edge_is_double(inputs, outputs, edges):
    random = np.random.default_rng(0)
    graph = expander.random_regular_graph(inputs, outputs, edges, random)
    assert graph.shape == (outputs, inputs)
    assert graph.sum() == edges
    for axis in (0, 1):
        degrees = graph.sum(axis)
        assert degrees.max() - degrees.min() <= 1


def test_singular_values_are_those_of_a_random_regular_graph():
    # of a regular graph the largest singular value is sqrt(d_in d_out), all others of a random one are close to the bound of
    # Ramanujan graphs, sqrt(d_in - 1) + sqrt(d_out - 1); runs of consecutive neighbours, unmixed, reach about the largest itself
    random = np.random.default_rng(0)
    for inputs, outputs, edges in ((60, 60, 360), (80, 40, 320)):
        into, out = edges // outputs, edges // inputs
        graph = expander.random_regular_graph(inputs, outputs, edges, random)
        largest, second = np.linalg.svd(graph.astype(float), compute_uv=False)[:2]
        assert largest == pytest.approx(math.sqrt(into * out))
        assert second < 1.1 * (math.sqrt(into - 1) + math.sqrt(out - 1))
        unmixed = expander.random_regular_graph(inputs, outputs, edges, random, trades=0)
        assert np.linalg.svd(unmixed.astype(float), compute_uv=False)[1] > 0.95 * largest


def test_every_edge_is_equally_likely():
    random = np.random.default_rng(0)
    often = sum(expander.random_regular_graph(6, 4, 12, random).astype(int) for _ in range(600))
    assert abs(often - 300).max() < 60  # five standard deviations of 12


def test_expansion_by_hand():
    random = np.random.default_rng(0)
    # one neighbour each: every set has as many neighbours as members
    assert expander.expansion(np.eye(6, dtype=bool), random) == 1
    # all joined, 2 x 2: one member, two neighbours
    assert expander.expansion(np.ones((2, 2), dtype=bool), random) == 2
    # all joined, 2 x 4: one output has 4 neighbours; one or two inputs have 2: (4 + (2 + 1) / 2) / 2 = 2.75
    assert expander.expansion(np.ones((2, 4), dtype=bool), random, sets=4000) == pytest.approx(2.75, rel=0.02)


def test_equals_the_mean_over_all_vertex_sets():
    random = np.random.default_rng(1)
    graph = random.random((7, 5)) < 0.4

    def side(adjacency):
        ratios = []
        for size in range(1, len(adjacency) // 2 + 1):
            sets = itertools.combinations(range(len(adjacency)), size)
            ratios.append(np.mean([adjacency[list(members)].any(0).sum() / size for members in sets]))
        return np.mean(ratios)

    expected = (side(graph) + side(graph.T)) / 2
    assert expander.expansion(graph, random, sets=5000) == pytest.approx(expected, rel=0.03)


def test_whole_kernels_stay_and_the_graph_that_expands_most_is_taken(monkeypatch):
    model = convnet(generator=torch.Generator().manual_seed(0))
    seen = []

    def watched(graph, random):
        seen.append(graph)
        return float(len(seen) % 4 == 3)

    monkeypatch.setattr(expander, "expansion", watched)
    masks = expander.masks(model, [], 0.6, graphs=4, generator=torch.Generator().manual_seed(0))
    weights, counts = prunable_weights(model), expander.edges_per_layer(model, 0.6)
    assert len(seen) == 4 * len(weights)
    for place, (name, mask) in enumerate(masks.items()):
        assert mask.shape == weights[name].shape
        chosen = torch.from_numpy(seen[4 * place + 2])
        assert torch.equal(mask.flatten(2).all(2) if mask.ndim > 2 else mask, chosen)
        assert torch.equal(mask.flatten(2).any(2) if mask.ndim > 2 else mask, chosen)
        assert int(chosen.sum()) == counts[name]
    kept, total = sum(int(mask.sum()) for mask in masks.values()), sum(mask.numel() for mask in masks.values())
    assert 0.4 * total - 40 < kept <= 0.4 * total


def test_a_generator_decides_and_at_least_one_graph_is_needed():
    model = nn.Linear(20, 20)
    draw = lambda seed: expander.masks(model, [], 0.8, graphs=1, generator=torch.Generator().manual_seed(seed))["weight"]
    assert torch.equal(draw(3), draw(3))
    assert not torch.equal(draw(3), draw(4))
    with pytest.raises(ValueError, match="graphs"):
        expander.masks(model, [], 0.8, graphs=0)


def joined(weight, graph):
    return graph.view(*weight.shape[:2], *[1] * (weight.ndim - 2)).expand(weight.shape).clone()


@pytest.mark.claim
def test_accuracy_rises_with_expansion():
    # the same number of kernels in every layer: a regular graph, edges drawn independently, and all edges among a few outputs
    train, test = digits()
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        data = batches(*train, 64, generator)
        build = lambda seed=seed: convnet((32, 32, 32, 32), generator=torch.Generator().manual_seed(seed))
        weights, counts = prunable_weights(build()), expander.edges_per_layer(build(), 0.95)
        masks = {"regular": expander.masks(build(), data, 0.95, graphs=3, generator=generator), "random": {}, "crowded": {}}
        for name, weight in weights.items():
            outputs, inputs = weight.shape[:2]
            masks["random"][name] = joined(weight, torch.randperm(outputs * inputs, generator=generator) < counts[name])
            rows = min(max(math.ceil(math.sqrt(counts[name] * outputs / inputs)), math.ceil(counts[name] / inputs)), outputs)
            crowd = torch.zeros(outputs, inputs, dtype=torch.bool)
            crowd[:rows, : counts[name] // rows] = True
            masks["crowded"][name] = joined(weight, crowd)
        reached = {name: accuracy(fit(build(), data, 3, [HoldMasks(found)]), [test]) for name, found in masks.items()}
        assert reached["regular"] > reached["random"] + 0.05
        assert reached["random"] > reached["crowded"] + 0.05
