"""AMC (he2018amc): its parts by hand and against scipy, its budget by counting, its agent on a task whose optimum is known."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.stats import kstest, truncnorm
from torch import nn

from reference_impls.after_training import amc
from reference_impls.core import counting, surgery
from reference_impls.core.amounts import Budget
from reference_impls.core.ddpg import Agent, new_agent, truncated_normal
from reference_impls.core.structures import Costs, removable_groups
from reference_impls.core.training import accuracy, fit
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import convnet, densenet_small, mobilenet_small, resnet8

EXAMPLE = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
BATCHES = [(EXAMPLE, torch.tensor([0]))]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def space(sizes=(4, 8, 2), prices=(1.0, 2.0, 5.0), budget=20.0, reward=lambda numbers: 0.0, least=None):
    """Steps whose cost is the sum of price * units: 4 + 16 + 10 = 30 in all."""
    features = torch.zeros(len(sizes), 8)
    features[:, 0] = torch.arange(len(sizes))
    features[:, 1] = torch.tensor(sizes)
    features[:, 7] = torch.tensor([size * price for size, price in zip(sizes, prices, strict=True)])
    cost = lambda numbers: sum(number * price for number, price in zip(numbers, prices, strict=True))
    return amc.Space(list(sizes), least or [1] * len(sizes), features, cost, reward, budget)


def test_rewards_by_hand():
    assert amc.error_reward(0.25, 1000.0) == -0.25
    assert amc.error_and_cost_reward(0.25, math.e**8) == pytest.approx(-2.0)


def test_the_cut_of_an_action_by_hand():
    # budget 20, later steps at their least: step 0 pays n + 2 + 5 <= 20: all 4 units. With 4 kept, step 1 pays 4 + 2n + 5 <= 20:
    # n <= 5.5. With 4 and 5, step 2 pays 4 + 10 + 5n <= 20: n = 1
    here = space()
    assert here.most([]) == 4
    assert here.most([4]) == 5
    assert here.most([4, 5]) == 1
    with pytest.raises(ValueError, match="amount: a budget of 7 is out of reach, the least is 8"):
        space(budget=7).most([])


def test_the_state_by_hand():
    # features are scaled between their lowest and highest: t = 1 of 0..2 -> 0.5; n = 8 of 2..8 -> 1; costs 4, 16, 10 -> (16-4)/12 = 1;
    # features that are all the same give 0. Step 0 kept 1 of 4 units: saved 3 of 30; what comes after step 1 costs 10 of 30
    state = space().state([1])
    torch.testing.assert_close(state, torch.tensor([0.5, 1.0, 0, 0, 0, 0, 0, 1.0, 0.1, 1 / 3, 0.25]))
    torch.testing.assert_close(space().state([])[-3:], torch.tensor([0.0, 26 / 30, 1.0]))


@pytest.mark.parametrize(("mean", "deviation"), [(0.5, 0.5), (0.95, 0.2), (0.02, 0.05)])
def test_noise_is_the_truncated_normal_of_scipy(mean, deviation):
    generator = seeded()
    drawn = [truncated_normal(mean, deviation, generator) for _ in range(800)]
    assert min(drawn) >= 0 and max(drawn) <= 1
    expected = truncnorm((0 - mean) / deviation, (1 - mean) / deviation, loc=mean, scale=deviation)
    assert kstest(drawn, expected.cdf).pvalue > 0.01


class Linear(nn.Module):
    """Q(s, a) = u s + v a."""

    def __init__(self, u, v):
        super().__init__()
        self.u, self.v = nn.Parameter(torch.tensor(u)), nn.Parameter(torch.tensor(v))

    def forward(self, states, actions):
        return self.u * states + self.v * actions


class Slope(nn.Module):
    """mu(s) = w s."""

    def __init__(self, w):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(w))

    def forward(self, states):
        return self.w * states


def column(*numbers):
    return torch.tensor(numbers)[:, None]


def test_targets_by_hand():
    # baseline: mean of (1, 3) = 2. Q'(s', mu'(s')) with u = 2, v = 3, w = 0.5: s' = 1 -> 2 + 3*0.5 = 3.5
    # targets: 1 - 2 + 3.5 = 2.5, and 3 - 2 = 1 where the episode ended
    agent = Agent(Slope(0.5), Linear(2.0, 3.0))
    rewards, after, last = column(1.0, 3.0), column(1.0, 1.0), column(0.0, 1.0)
    assert agent.targets(rewards, after, last).flatten().tolist() == [2.5, 1.0]
    # then half the way from 2 to the mean 6 of the next batch: 4
    assert agent.targets(rewards + 4, after, last).flatten().tolist() == [4.5, 3.0] and agent.baseline == 4.0


def test_one_update_by_hand():
    # target of a last transition with reward 5 after a baseline of 1: the first batch sets the baseline to 5, so y = 0
    # Q(s=2, a=1) = 2*1 + 3*1 = 5 with u = 1, v = 3: too high, so u and v fall. Adam's first step is its rate: 0.1
    # the actor climbs Q(s, w s): dQ/dw = v s > 0, so w rises by 0.01; the copies follow a fifth of the way
    agent = Agent(Slope(0.5), Linear(1.0, 3.0), following=0.2, rates=(0.01, 0.1))
    agent.learn(column(2.0), column(1.0), column(5.0), column(2.0), column(1.0))
    assert agent.critic.u.item() == pytest.approx(0.9) and agent.critic.v.item() == pytest.approx(2.9)
    assert agent.actor.w.item() == pytest.approx(0.51)
    assert agent.slow_critic.u.item() == pytest.approx(0.98) and agent.slow_actor.w.item() == pytest.approx(0.502)
    # a critic that thinks less of larger actions sends the actor down
    agent = Agent(Slope(0.5), Linear(1.0, -3.0), rates=(0.01, 0.1))
    agent.learn(column(2.0), column(1.0), column(5.0), column(2.0), column(1.0))
    assert agent.actor.w.item() == pytest.approx(0.49)


@pytest.mark.parametrize("build", [resnet8, convnet, mobilenet_small, densenet_small])
def test_costs_are_those_of_the_network_cut_for_real(build):
    model = build(generator=seeded())
    groups = removable_groups(model, EXAMPLE)
    costs = Costs(model, groups, EXAMPLE)
    assert costs({}) == counting.macs(model, EXAMPLE)
    generator = seeded(1)
    for _ in range(4):
        numbers = {group.name: int(torch.randint(1, group.size + 1, (), generator=generator)) for group in groups}
        kept = {group.name: torch.arange(group.size) < numbers[group.name] for group in groups}
        assert costs(numbers) == counting.macs(surgery.remove(model, groups, kept), EXAMPLE)
    assert model.training


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("fraction", [0.2, 0.5, 0.9])
def test_no_network_that_is_tried_exceeds_the_budget(seed, fraction):
    model = resnet8(generator=seeded())
    dense = counting.macs(model, EXAMPLE)
    tried = []

    def evaluate(network):
        tried.append(counting.macs(network, EXAMPLE))
        return 0.5

    small = amc.prune(model, BATCHES, Budget(macs=fraction * dense), evaluate=evaluate, episodes=8, warmup=4, generator=seeded(seed))
    assert len(tried) == 8 and max(tried) <= fraction * dense
    assert counting.macs(small, EXAMPLE) in tried


def test_what_stays_is_what_the_next_layers_read_most_and_the_removal_is_real():
    model = resnet8(generator=seeded()).eval()
    groups = {group.name: group for group in removable_groups(model, EXAMPLE)}
    read = model.blocks[0].conv2.weight.detach().abs().sum((0, 2, 3))
    keep = amc.keep_largest(model, groups["blocks.0.conv1"], 3)
    assert keep.nonzero().flatten().tolist() == read.topk(3).indices.sort().values.tolist()
    # the stream is read by the first block, and by both paths of the second
    stream = [model.blocks[0].conv1, model.blocks[1].conv1, model.blocks[1].shortcut[0]]
    together = sum(layer.weight.detach().abs().sum((0, 2, 3)) for layer in stream)
    assert amc.keep_largest(model, groups["conv1"], 3).nonzero().flatten().tolist() == together.topk(3).indices.sort().values.tolist()
    budget = Budget(macs=0.4 * counting.macs(model, EXAMPLE))
    small = amc.prune(model, BATCHES, budget, evaluate=lambda network: 0.5, episodes=2, warmup=2, generator=seeded())
    kept = {}
    for name, group in groups.items():
        kept[name] = amc.keep_largest(model, group, small.get_submodule(name).out_channels)
    masked = surgery.masked(model, groups.values(), kept)
    torch.testing.assert_close(small(EXAMPLE), masked(EXAMPLE), rtol=1e-5, atol=1e-5)
    assert counting.parameters(small) < counting.parameters(model)


def test_the_description_of_layers_by_hand():
    model = convnet(generator=seeded())
    groups = removable_groups(model, EXAMPLE)
    rows = amc.describe(model, groups, Costs(model, groups, EXAMPLE))
    # second convolution: 8 filters of 8 channels, 8 x 8 images, stride 1, kernel 3, 8*8*9*64 = 36,864 multiplications
    assert rows[1].tolist() == [1, 8, 8, 8, 8, 1, 3, 36864]
    # hidden layer: 64 neurons that read 64 inputs
    assert rows[4].tolist() == [4, 64, 64, 1, 1, 0, 1, 4096]


@pytest.mark.parametrize("seed", range(3))
def test_the_agent_learns_a_near_optimal_allocation(seed):
    # what a step loses grows with the square of the fraction removed; the middle one matters twenty times as much. 8 units each at
    # one price, 12 may stay. Not the best network seen but the policy after learning is held to the optimum, as chance finds the former
    lose = lambda numbers: sum(weight * (1 - n / 8) ** 2 for weight, n in zip((0.05, 1.0, 0.05), numbers, strict=True))
    here = space((8, 8, 8), (1.0, 1.0, 1.0), 12.0, lambda numbers: -lose(numbers))
    optimum = max(here.reward(numbers) for numbers in itertools.product(range(1, 9), repeat=3) if sum(numbers) <= 12)
    drawn = new_agent(hidden=32, generator=seeded(seed))
    agent = Agent(drawn.actor, drawn.critic, rates=(3e-3, 1e-2))
    best, rewards = amc.search(here, agent, 200, 40, seeded(seed), decay=0.96)
    assert optimum - np.mean(rewards[:40]) > 0.2 and optimum - here.reward((4, 4, 4)) > 0.2
    assert optimum - np.mean(rewards[-20:]) < 0.03
    assert here.reward(best) == max(rewards) > optimum - 0.02


@pytest.mark.claim
def test_finds_a_better_allocation_than_the_same_fraction_everywhere():
    # same channels by the same criterion within the same budget, before fine-tuning; only the numbers per layer differ
    (inputs, targets), (test_inputs, test_targets) = digits()
    test = batches(test_inputs, test_targets, 360)
    held_out = batches(inputs[:400], targets[:400], 400)
    gained = []
    for seed in range(3):
        train = batches(inputs[400:], targets[400:], 64, seeded(seed))
        model = fit(resnet8(generator=seeded(seed)), train, 4)
        groups = removable_groups(model, EXAMPLE)
        costs = Costs(model, groups, EXAMPLE)
        budget = 0.6 * costs({})
        everywhere = (
            {g.name: max(1, round(share * g.size)) for g in groups} for share in np.linspace(1, 0, 200)
        )  # the largest fraction that fits
        numbers = next(n for n in everywhere if costs(n) <= budget)
        uniform = surgery.remove(model, groups, {g.name: amc.keep_largest(model, g, numbers[g.name]) for g in groups})
        evaluate = lambda network: accuracy(network, held_out)
        found = amc.prune(model, train, Budget(macs=budget), evaluate=evaluate, episodes=100, warmup=40, generator=seeded(seed))
        assert counting.macs(found, EXAMPLE) <= budget
        gained.append(accuracy(found, test) - accuracy(uniform, test))
    assert sum(gained) / 3 > 0.03
