"""Movement pruning (sanh2020movement): by hand, against masks of the authors' code, against autograd, and its claim."""

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from reference_impls.after_training import movement
from reference_impls.core.amounts import Strength
from reference_impls.core.masks import keep_highest, sparsity_of
from reference_impls.core.training import Callback, accuracy, cross_entropy, fit
from reference_impls.during_training import gradual_magnitude
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import lenet_300_100

ORACLE = Path(__file__).parents[2] / "oracle" / "movement_nn_pruning.npz"


def layer(*weights):
    made = nn.Linear(len(weights), 1, bias=False)
    made.weight.data = torch.tensor([weights])
    return made


def test_two_steps_by_hand():
    # half of 3, -2, 1, -1 go after two steps; the curve has 1/2 - 1/2 (1 - 1/2)^3 = 0.4375 after the first, round(4 * 0.4375) = 2
    model = layer(3.0, -2.0, 1.0, -1.0)
    moving = movement.Movement(0.5, 0, 2, None)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    moving.start(model, optimizer)
    assert model.weight.tolist() == [[3, -2, 1, -1]]
    # gradients 1, 1, -2, 0: weights 2, -3, 3, -1; scores fall by gradient * weight: -3, 2, 2, 0. Of these 2, 2 stay: the 3 is
    # the largest at first, but moves towards zero
    model.weight.grad = torch.tensor([[1.0, 1.0, -2.0, 0.0]])
    moving.after_backward(model, optimizer)
    optimizer.step()
    moving.after_step(model, optimizer)
    assert moving.scores["weight"].tolist() == [[-3, 2, 2, 0]]
    assert moving.dense["weight"].tolist() == [[2, -3, 3, -1]]
    assert model.weight.tolist() == [[0, -3, 3, 0]]
    # gradients -4, 0, 2, 1: the absent 2 stays but its score becomes -3 + 8 = 5; the 3 becomes 1, its score 2 - 6 = -4; -1 is absent
    # too, with score 0 + 1. So 2 returns, and 1 goes
    optimizer.zero_grad()
    model.weight.grad = torch.tensor([[-4.0, 0.0, 2.0, 1.0]])
    moving.after_backward(model, optimizer)
    optimizer.step()
    moving.after_step(model, optimizer)
    assert moving.scores["weight"].tolist() == [[5, 2, -4, 1]]
    assert model.weight.tolist() == [[2, -3, 0, 0]]
    assert moving.masks["weight"].tolist() == [[True, True, False, False]]


def test_the_soft_penalty_by_hand():
    # layers with scores (0, ln 3) and (-ln 3): sigmoids 1/2, 3/4 and 1/4; means 5/8 and 1/4; their mean 7/16; lambda = 8: 3.5.
    # Halfway, 1 - (1/2)^3 = 7/8 of it
    soft = movement.SoftMovement(8.0, 0.1, 2, 4, None)
    soft.scores = {"a": torch.tensor([0.0, math.log(3)]), "b": torch.tensor([-math.log(3)])}
    values = []
    for soft.step in (0, 2, 3, 4, 5):
        values.append(float(soft.penalty(None)))
    assert values == pytest.approx([0, 0, 3.5 * 7 / 8, 3.5, 3.5])


def test_same_masks_as_the_authors_binarizers():
    frozen = {name: torch.from_numpy(array) for name, array in np.load(ORACLE).items()}
    scores = {"weight": frozen["scores"]}
    for density in (0.25, 0.5):
        moving = movement.Movement(1 - density, 0, 1, None)
        moving.step = 1
        assert torch.equal(moving.choose(scores)["weight"].float(), frozen[f"topk_{density}"])
    soft = movement.SoftMovement(0.0, 0.6, 0, 1, None)
    soft.step = 1
    assert torch.equal(soft.choose(scores)["weight"].float(), frozen["threshold_sigmoid_0.6"])


def test_half_a_per_cent_stays_even_if_no_score_is_above():
    score = -torch.arange(10.0, 410.0)  # int(0.005 * 400) + 1 = 3
    assert movement.above(score, 0.5).nonzero().flatten().tolist() == [0, 1, 2]
    score[101:103] = 2.0  # two above, three stay
    assert movement.above(score, 0.5).nonzero().flatten().tolist() == [0, 101, 102]
    score[100:103] = torch.tensor([1.0, 2.0, 3.0])
    assert movement.above(score, 0.5).nonzero().flatten().tolist() == [100, 101, 102]
    score[103] = 0.0  # sigmoid(0) is not above a half
    assert movement.above(score, 0.5).nonzero().flatten().tolist() == [100, 101, 102]


class StraightThrough(torch.autograd.Function):
    """A mask whose gradient passes to the scores unchanged."""

    @staticmethod
    def forward(ctx, score, mask):
        return mask

    @staticmethod
    def backward(ctx, gradient):
        return gradient, None


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(36, 4))


def data(steps):
    torch.manual_seed(1)
    return [(torch.randn(16, 1, 5, 5), torch.randint(4, (16,))) for _ in range(steps)]


@pytest.mark.parametrize("soft", [False, True])
def test_trains_as_the_masked_network_does_under_autograd(soft):
    steps, warmup, end, final, strength = 12, 2, 9, (0.7 if not soft else 0.45), 30.0
    theirs, names = network(), ("0.weight", "3.weight")
    scores = {name: torch.zeros_like(theirs.get_parameter(name)).requires_grad_() for name in names}
    optimizer = torch.optim.Adam([{"params": theirs.parameters()}, {"params": scores.values(), "lr": 0.05, "weight_decay": 0}], lr=0.01)
    for group in optimizer.param_groups[:1]:
        group["weight_decay"] = 0.1

    def masked(step):
        way = min(max((step - warmup) / (end - warmup), 0), 1)
        now = final - final * (1 - way) ** 3
        pieces = {}
        for name, score in scores.items():
            kept = score.sigmoid() > now if soft else keep_highest({"": score.detach()}, now, "layer")[""]
            pieces[name] = theirs.get_parameter(name) * StraightThrough.apply(score, kept.float())
        return pieces, strength * now / final

    for step, (inputs, targets) in enumerate(data(steps)):
        optimizer.zero_grad()
        pieces, factor = masked(step)
        loss = cross_entropy(torch.func.functional_call(theirs, pieces, inputs), targets)
        if soft:
            loss = loss + factor * sum(torch.norm(torch.sigmoid(score), p=1) / score.numel() for score in scores.values()) / 2
        loss.backward()
        optimizer.step()
    ours = network()
    amount = Strength(strength) if soft else final
    [moving] = movement.callbacks(ours, amount, steps=steps, warmup=warmup, cooldown=3, threshold=0.45, learning_rate=0.05)
    fit(ours, data(steps), 1, [moving], optimizer=lambda p: torch.optim.Adam(p, 0.01, weight_decay=0.1))
    for name, piece in masked(steps)[0].items():
        torch.testing.assert_close(ours.get_parameter(name).data, piece.detach(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(moving.scores[name].data, scores[name].data, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(moving.dense[name], theirs.get_parameter(name).data, rtol=1e-4, atol=1e-5)
        assert 0 < moving.masks[name].float().mean() < 1


class Densities(Callback):
    def __init__(self, moving):
        self.moving, self.seen = moving, []

    def penalty(self, model):
        self.seen.append(round(1 - sparsity_of(self.moving.masks), 6))
        return 0.0


@pytest.mark.parametrize(("steps", "warmup", "end"), [(20, 2, 16), (9, 0, 8)])
def test_density_falls_after_the_warm_up_and_stays_in_the_end(steps, warmup, end):
    model = layer(*torch.linspace(1, 2, 1000).tolist())
    [moving] = movement.callbacks(model, 0.8, steps=steps)
    watch = Densities(moving)
    model.train()
    fit(model, [(torch.ones(2, 1000), torch.zeros(2, 1))] * steps, 1, [moving, watch], loss=lambda out, targets: out.mean())
    expected = [1 - 0.8 * (1 - (1 - min(max((step - warmup) / (end - warmup), 0), 1)) ** 3) for step in range(steps)]
    assert watch.seen == pytest.approx(expected, abs=6e-4)
    assert sparsity_of(moving.masks) == pytest.approx(0.8)


def test_more_strength_makes_more_sparsity():
    reached = []
    for strength in (0.0, 1.0, 10.0):
        model = network()
        [moving] = movement.callbacks(model, Strength(strength), steps=60, threshold=0.4, learning_rate=0.03)
        fit(model, data(60), 1, [moving], optimizer=lambda p: torch.optim.Adam(p, 0.001))
        reached.append(sparsity_of(moving.masks))
    assert reached[0] < reached[1] < reached[2]


@pytest.mark.parametrize("given", [{"warmup": -1}, {"warmup": 8}, {"cooldown": 10}, {"cooldown": -1}])
def test_refuses_a_schedule_that_does_not_fit(given):
    with pytest.raises(ValueError, match="steps"):
        movement.callbacks(network(), 0.5, steps=10, **given)
    movement.callbacks(network(), 0.5, steps=10, warmup=7)
    movement.callbacks(network(), 0.5, steps=10, warmup=0, cooldown=0)


@pytest.mark.parametrize("threshold", [-0.1, 1.0])
def test_refuses_a_threshold_out_of_range(threshold):
    with pytest.raises(ValueError, match="threshold"):
        movement.callbacks(network(), Strength(1.0), steps=10, threshold=threshold)
    movement.callbacks(network(), Strength(1.0), steps=10, threshold=0)


def test_a_layer_without_a_gradient_gets_none():
    model, unused = network(), nn.Linear(3, 2)
    model.add_module("unused", nn.Identity())
    model.unused.inner = unused
    [moving] = movement.callbacks(model, 0.5, steps=2, warmup=0, cooldown=0)
    fit(model, data(2), 1, [moving])
    assert not moving.scores["unused.inner.weight"].any()
    unused.weight.data.fill_(torch.nan)
    with pytest.raises(ValueError, match="NaN"):
        movement.callbacks(model, 0.5, steps=2)


class Opposite(movement.Movement):
    """The wrong variant: keeps what moves towards zero."""

    def choose(self, scores):
        return super().choose({name: -score for name, score in scores.items()})


@pytest.mark.claim
def test_after_pretraining_elsewhere_movement_beats_magnitude_at_high_sparsity():
    # pretrained on digits lying on their side, fine-tuned on upright ones with a small learning rate; 3 % of the weights are left
    (inputs, targets), test = digits()
    slowly = lambda parameters: torch.optim.Adam(parameters, 3e-4)
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        upright, lying = (batches(images, targets, 64, generator) for images in (inputs, inputs.transpose(2, 3).flip(2)))
        pretrained = fit(lenet_300_100(generator=generator), lying, 8, optimizer=lambda parameters: torch.optim.Adam(parameters, 1e-3))
        steps = 10 * len(upright)
        begin, end = steps // 10, steps - steps // 5

        def reach(callbacks, pretrained=pretrained, upright=upright):
            return accuracy(fit(copy.deepcopy(pretrained), upright, 10, callbacks, optimizer=slowly), [test])

        moving = reach(movement.callbacks(pretrained, 0.97, steps=steps, learning_rate=1e-2))
        opposite = reach([Opposite(0.97, begin, end, 1e-2)])
        schedule = {"steps": steps, "begin": begin, "every": 1, "prunings": end - begin}
        magnitude = reach(gradual_magnitude.callbacks(pretrained, 0.97, **schedule))
        assert moving > 0.08 + max(opposite, magnitude)
