"""Gradual magnitude pruning (zhu2018prune): by hand, against JaxPruner's curve and masks, and its claim."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from reference_impls.core.masks import keep_highest
from reference_impls.core.training import Callback, accuracy, fit, momentum_sgd
from reference_impls.during_training import gradual_magnitude
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import lenet_300_100, mlp

ORACLE = Path(__file__).parents[2] / "oracle"


class Watch(Callback):
    """Writes down which weights are left after every step; entry 0 is before the first."""

    def __init__(self):
        self.left = []

    def start(self, model, optimizer):
        self.after_step(model, optimizer)

    def after_step(self, model, optimizer):
        self.left.append({name: weight.detach() != 0 for name, weight in model.named_parameters() if weight.dim() > 1})


def standing(parameters):
    return momentum_sgd(parameters, 0.0)


def run(model, steps, amount, optimizer=momentum_sgd, **given):
    watch = Watch()
    data = [(torch.randn(4, model[0].in_features), torch.randint(2, (4,))) for _ in range(steps)]
    fit(model, data, 1, [*gradual_magnitude.callbacks(model, amount, steps=steps, **given), watch], optimizer=optimizer)
    return watch.left


def test_by_hand():
    # final 7/8, begin 1, every 2, two prunings: at steps 1, 3, 5 the sparsity is 0, 7/8 (1 - (1/2)^3) = 0.766, 7/8;
    # of eight weights round(6.1) = 6 and then 7 go, the smallest magnitudes first
    model = nn.Sequential(nn.Linear(4, 2, bias=False))
    model[0].weight.data = torch.tensor([[1.0, -8.0, 2.0, -7.0], [-3.0, 4.0, 5.0, -6.0]])
    magnitudes = model[0].weight.detach().abs().clone()
    left = run(model, 6, 7 / 8, standing, begin=1, every=2, prunings=2)
    found = [sorted(magnitudes[kept["0.weight"]].tolist()) for kept in left]
    everything = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]
    assert found == [everything, everything, everything, [7.0, 8.0], [7.0, 8.0], [8.0], [8.0]]


def test_starts_from_the_initial_sparsity_by_hand():
    # s_i = 1/4, s_f = 3/4, begin 0, every 1, two prunings: 1/4, 3/4 - 1/2 * 1/8 = 0.6875, 3/4 of eight: 2, round(5.5) = 6, 6
    model = nn.Sequential(nn.Linear(4, 2, bias=False))
    left = run(model, 4, 3 / 4, standing, initial=1 / 4, begin=0, every=1, prunings=2)
    assert [int(kept["0.weight"].sum()) for kept in left] == [6, 2, 2, 2, 2]


def test_each_layer_comes_to_the_sparsity_asked_three_quarters_into_training():
    torch.manual_seed(0)
    left = run(nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 2)), 40, 0.9)
    for name, size in (("0.weight", 200), ("2.weight", 40)):
        gone = [size - int(kept[name].sum()) for kept in left]
        # every 40 // 20 = 2 steps until step 30: 0.9 (1 - (1 - t / 30)^3)
        times = [min(step - step % 2, 30) for step in range(41)]
        assert gone == [round(size * 0.9 * (1 - (1 - t / 30) ** 3)) for t in times]


def test_what_is_pruned_stays_pruned_while_momentum_pulls():
    torch.manual_seed(0)
    left = run(nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 2)), 40, 0.9)
    for before, after in itertools.pairwise(left):
        assert all(not (after[name] & ~before[name]).any() for name in after)


def test_a_weight_that_is_zero_by_itself_does_not_free_a_pruned_one():
    # index 0 trains to exactly 0 after index 1 was pruned; were scores |w| alone, the tie would go to index 0 and 1 came back
    model = nn.Sequential(nn.Linear(4, 1, bias=False))
    model[0].weight.data = torch.tensor([[2.0, 1.0, 3.0, 4.0]])
    [pruning] = gradual_magnitude.callbacks(model, 0.25, steps=4, initial=0.25, begin=0, every=1, prunings=2)
    pruning.start(model, None)
    model[0].weight.data[0, 0] = 0.0
    pruning.after_step(model, None)
    assert pruning.masks["0.weight"].tolist() == [[True, False, True, True]]


@pytest.mark.parametrize("amount", [0.5, 0.9])
def test_same_masks_as_jaxpruner_on_weights_that_stand_still(amount):
    case = np.load(ORACLE / "jaxpruner_masks.npz")
    model = nn.Sequential(nn.Linear(64, 48, bias=False), nn.ReLU(), nn.Linear(48, 10, bias=False))
    for layer, name in ((model[0], "fc1"), (model[2], "fc2")):
        layer.weight.data = torch.from_numpy(case[f"W.{name}"]).T.contiguous()  # theirs are (inputs, outputs)
    last = run(model, 20, amount, standing)[-1]
    for layer, name in (("0.weight", "fc1"), ("2.weight", "fc2")):
        assert torch.equal(last[layer], torch.from_numpy(case[f"magnitude_{amount}.{name}"]).bool().T)


def test_same_sparsity_at_every_step_as_jaxpruner():
    # theirs counts a step as done when it begins: their step t is our t + 1; of 2,000 weights each is 0.0005
    expected = json.loads((ORACLE / "jaxpruner_masks.json").read_text())["distributions"]["polynomial_schedule_target0.9"]
    torch.manual_seed(0)
    left = run(nn.Sequential(nn.Linear(100, 20, bias=False)), 1501, 0.9, standing, begin=100, every=1, prunings=900)
    for step, sparsity in expected.items():
        assert 1 - left[int(step) + 1]["0.weight"].float().mean().item() == pytest.approx(sparsity, abs=0.0003)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"initial": 0.6}, "initial"),
        ({"begin": 10}, "begin"),
        ({"every": 0}, "every"),
        ({"prunings": 0}, "prunings"),
        ({"every": 3, "prunings": 4}, "prunings"),
    ],
)
def test_refuses_a_schedule_that_does_not_fit_the_run(given, named):
    with pytest.raises(ValueError, match=named):
        gradual_magnitude.callbacks(nn.Linear(4, 2), 0.5, steps=10, **given)


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 20, 57])
def test_the_default_schedule_ends_within_the_shortest_runs(steps):
    torch.manual_seed(0)
    left = run(nn.Sequential(nn.Linear(10, 2)), steps, 0.8)
    assert int(left[-1]["0.weight"].sum()) == 4


def keep_smallest(scores, now, group):
    """The wrong variant: the largest weights go first."""
    return keep_highest({name: torch.where(score < 0, score, 1 / (1 + score)) for name, score in scores.items()}, now, group)


@pytest.mark.claim
def test_a_large_network_made_sparse_beats_a_small_dense_one_of_as_many_weights(monkeypatch):
    train, test = digits()
    margins, reversed_reach = [], []
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        data = batches(*train, 64, generator)
        steps = 10 * len(data)
        large = lenet_300_100(generator=generator)
        state = {name: tensor.clone() for name, tensor in large.state_dict().items()}
        fit(large, data, 10, gradual_magnitude.callbacks(large, 0.98, steps=steps))
        left = sum(int((weight != 0).sum()) for weight in large.parameters() if weight.dim() > 1)
        small = mlp([64, 14, 5, 10], generator=generator)  # 64*14 + 14*5 + 5*10 weights
        assert left < sum(weight.numel() for weight in small.parameters() if weight.dim() > 1)
        margins.append(accuracy(large, [test]) - accuracy(fit(small, data, 10), [test]))
        with monkeypatch.context() as patch:
            patch.setattr(gradual_magnitude, "keep_highest", keep_smallest)
            large.load_state_dict(state)
            reversed_reach.append(accuracy(fit(large, data, 10, gradual_magnitude.callbacks(large, 0.98, steps=steps)), [test]))
    assert min(margins) > 0
    assert sum(margins) / 3 > 0.02
    assert max(reversed_reach) < 0.3
