"""SynFlow (tanaka2020pruning): by hand, path by path, its conservation laws, the authors' code, and its claim."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from reference_impls.before_training import snip, synflow
from reference_impls.core.masks import keep_highest, masked, prunable_weights
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import mlp

ORACLE = Path(__file__).parents[2] / "oracle"


def data(*shape):
    return [(torch.full((2, *shape), torch.nan), torch.zeros(2, dtype=torch.long))]  # never looked at: NaN would show


def two_layers():
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 1, bias=False))
    model[0].weight.data = torch.tensor([[1.0, -2.0], [3.0, 0.5]])
    model[2].weight.data = torch.tensor([[2.0, -1.0]])
    return model


def test_by_hand():
    # a weight's flow is the sum over its paths: |w1| * |w2| for the first layer, |w2| * (sum of its unit's |w1|) for the second
    scores = synflow.synaptic_flow(two_layers(), data(2))
    assert scores["0.weight"].tolist() == [[1 * 2, 2 * 2], [3 * 1, 0.5 * 1]]
    assert scores["2.weight"].tolist() == [[2 * (1 + 2), 1 * (3 + 0.5)]]


def test_scores_are_taken_anew_each_round_by_hand():
    # unit 1: in (1, 1.1), out (0.6, 0.4); unit 2: in (0.95, 3), out (0.5, 0.5), so the first scores are
    # in (1, 1.1), (0.95, 3), out (0.6*2.1, 0.4*2.1) = (1.26, 0.84), (0.5*3.95) twice = (1.975, 1.975)
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 2, bias=False))
    model[0].weight.data = torch.tensor([[1.0, 1.1], [0.95, 3.0]])
    model[2].weight.data = torch.tensor([[0.6, 0.5], [0.4, 0.5]])
    # one round of four: 0.84, 0.95, 1 and 1.1 go, and unit 1 keeps an output that nothing enters
    at_once = synflow.masks(model, data(2), 0.5, rounds=1)
    assert at_once["0.weight"].tolist() == [[False, False], [False, True]]
    assert at_once["2.weight"].tolist() == [[True, True], [False, True]]
    # four rounds of one (8 * (1 - 0.5^(k/4)) = 1.3, 2.3, 3.2, 4): 0.84 goes, which leaves unit 1 with in (0.6, 0.66), out 1.26;
    # 0.6 goes, which leaves in 0.66, out 0.66; of these equals the input goes; then the output, which carries 0
    gradual = synflow.masks(model, data(2), 0.5, rounds=4)
    assert gradual["0.weight"].tolist() == [[False, False], [True, True]]
    assert gradual["2.weight"].tolist() == [[False, True], [False, True]]


def test_equals_the_sum_over_all_paths():
    torch.manual_seed(0)
    sizes = [3, 4, 2, 3]
    model = mlp(sizes).double()
    layers = [layer for layer in model if isinstance(layer, nn.Linear)]
    for layer in layers:
        layer.bias.data.zero_()
    expected = [torch.zeros_like(layer.weight) for layer in layers]
    for path in itertools.product(*(range(size) for size in sizes)):
        edges = list(zip(layers, path[1:], path[:-1], strict=True))
        product = math.prod(abs(layer.weight[out, inward].item()) for layer, out, inward in edges)
        for flow, (_, out, inward) in zip(expected, edges, strict=True):
            flow[out, inward] += product
    for score, flow in zip(synflow.synaptic_flow(model, data(3)).values(), expected, strict=True):
        torch.testing.assert_close(score, flow)


def test_flow_is_conserved_at_every_hidden_unit_and_in_every_layer():
    torch.manual_seed(0)
    model = mlp([6, 8, 5, 4])
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.data.zero_()
    scores = list(synflow.synaptic_flow(model, data(6)).values())
    for entering, leaving in itertools.pairwise(scores):
        torch.testing.assert_close(entering.sum(1), leaving.sum(0))
    total = scores[0].sum()
    assert total > 0
    for score in scores:
        torch.testing.assert_close(score.sum(), total)


def test_flow_is_conserved_at_every_channel_of_a_convolutional_network():
    torch.manual_seed(0)
    conv = lambda inward, outward: nn.Conv2d(inward, outward, 3, padding=1, bias=False)
    model = nn.Sequential(conv(2, 4), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), conv(4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 5))
    model[7].bias.data.zero_()
    first, second, last = synflow.synaptic_flow(model, data(2, 8, 8)).values()
    torch.testing.assert_close(first.sum((1, 2, 3)), second.sum((0, 2, 3)))
    torch.testing.assert_close(second.sum((1, 2, 3)), last.view(5, 3, 16).sum((0, 2)))


def test_a_bias_adds_what_a_unit_passes_on_beyond_its_input():
    # |b| = 3 enters unit 1, whose output weight is 2: it passes on 2 * (1 + 2 + 3) = 12, of which 6 came through its weights
    model = two_layers()
    model[0].bias = nn.Parameter(torch.tensor([-3.0, 0.0]))
    scores = synflow.synaptic_flow(model, data(2))
    assert scores["0.weight"][0].sum() == 6 and scores["2.weight"][0, 0] == 12


def test_same_scores_and_mask_as_the_authors_code():
    # its counting rule: in round k of 100, int((1 - 0.1^(k/100)) * 2040) weights are gone, at the end 1836; ours: round(sparsity * 2040)
    case = {k: torch.from_numpy(v) for k, v in np.load(ORACLE / "synflow_synflow100_c1_mlp.npz").items()}
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 32), nn.ReLU(), nn.Linear(32, 24), nn.ReLU(), nn.Linear(24, 5))
    model.load_state_dict({k.removeprefix("state."): v for k, v in case.items() if k.startswith("state.")})
    official = [int((1 - 0.1 ** (k / 100)) * 2040) / 2040 for k in range(1, 101)]
    scores, masks = synflow.synaptic_flow(model, data(1, 6, 6)), synflow.prune_in_rounds(model, data(1, 6, 6), official)
    for name in masks:
        torch.testing.assert_close(scores[name].float(), case[f"score_round1.{name}"], rtol=1e-5, atol=0)
        assert torch.equal(masks[name], case[f"keep_mask.{name}"].bool())
    assert sum(int(mask.sum()) for mask in masks.values()) == 204


def test_rounds_keep_the_same_fraction_of_what_is_left(monkeypatch):
    taken = []
    monkeypatch.setattr(synflow, "prune_in_rounds", lambda model, batches, sparsities: taken.extend(sparsities))
    synflow.masks(two_layers(), data(2), 0.992, rounds=3)
    assert taken == pytest.approx([0.8, 0.96, 0.992])  # densities 1/5, 1/25, 1/125


def test_refuses_tokens_no_data_and_no_round():
    model = nn.Linear(2, 1)
    with pytest.raises(ValueError, match="batches"):
        synflow.masks(model, [(torch.zeros(1, 2, dtype=torch.long), torch.zeros(1))], 0.5)
    with pytest.raises(ValueError, match="batches"):
        synflow.masks(model, [], 0.5)
    with pytest.raises(ValueError, match="rounds"):
        synflow.masks(model, data(2), 0.5, rounds=0)


@pytest.mark.claim
def test_no_layer_collapses_up_to_the_highest_compression_where_all_others_lose_layers():
    # one weight in each of eight layers is the least that lets anything through: the maximal compression
    train, _ = digits()
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        examples = batches(*train, 64, generator)
        model = mlp([64, *[40] * 7, 10], generator=generator)
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.data.zero_()
        weights = {name: weight.detach() for name, weight in prunable_weights(model).items()}
        total = sum(weight.numel() for weight in weights.values())
        for left in (8, 16, 64):
            amount = 1 - left / total
            masks = {
                "synflow": synflow.masks(model, examples, amount),
                "synflow in one round": synflow.masks(model, examples, amount, rounds=1),
                "snip": snip.masks(model, examples, amount),
                "magnitude": keep_highest({name: weight.abs() for name, weight in weights.items()}, amount),
            }
            fewest = {name: min(int(mask.sum()) for mask in found.values()) for name, found in masks.items()}
            assert sum(int(mask.sum()) for mask in masks["synflow"].values()) == left
            assert fewest["synflow"] >= 1
            assert synflow.synaptic_flow(masked(model, masks["synflow"]), examples)["1.weight"].sum() > 0  # a path leads through
            assert fewest["synflow in one round"] == 0
            if left <= 16:
                assert fewest["snip"] == fewest["magnitude"] == 0
