"""DDPG: targets and one update by hand, the noise against scipy; what it learns is tested with AMC."""

import pytest
import torch
from scipy.stats import kstest, truncnorm
from torch import nn

from reference_impls.core.ddpg import Agent, new_agent, truncated_normal


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


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


def test_an_agent_follows_from_the_generator_and_leaves_the_global_state_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    one, other, third = (new_agent(hidden=4, generator=seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    states, actions = torch.ones(3, 11), torch.ones(3, 1)
    assert torch.equal(one.critic(states, actions), other.critic(states, actions))
    assert not torch.equal(one.actor(states), third.actor(states))
    assert 0 < one.actor(states).min() <= one.actor(states).max() < 1
