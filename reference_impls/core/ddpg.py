"""Deep deterministic policy gradient with one action in [0, 1], as methods use it that learn by reinforcement what to keep.

An actor proposes the action, a critic foretells the reward of an action in a state, and slowly following copies of both make the
critic's targets. The form is that of he2018amc: targets are reduced by a moving average of the rewards, nothing is discounted.
"""

import copy

import torch
from torch import Tensor, nn


class Critic(nn.Module):
    """Foretells the reward of an action in a state."""

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.state, self.action = nn.Linear(features, hidden), nn.Linear(1, hidden)
        self.rest = nn.Sequential(nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 1))

    def forward(self, states: Tensor, actions: Tensor) -> Tensor:
        return self.rest(self.state(states) + self.action(actions))


def truncated_normal(mean: float, deviation: float, generator: torch.Generator | None = None) -> float:
    """One draw from a normal distribution cut to [0, 1]."""
    normal = torch.distributions.Normal(torch.tensor(mean, dtype=torch.float64), deviation)
    low, high = normal.cdf(torch.tensor([0.0, 1.0], dtype=torch.float64))
    drawn = torch.rand((), generator=generator, dtype=torch.float64)
    return float(normal.icdf(low + (high - low) * drawn).clamp(0, 1))


class Agent:
    """DDPG: actor and critic with slowly following copies of both."""

    def __init__(self, actor: nn.Module, critic: nn.Module, following: float = 0.01, rates: tuple[float, float] = (1e-4, 1e-3)) -> None:
        self.actor, self.critic, self.following = actor, critic, following
        self.slow_actor, self.slow_critic = copy.deepcopy(actor), copy.deepcopy(critic)
        self.actor_optimizer = torch.optim.Adam(actor.parameters(), rates[0])
        self.critic_optimizer = torch.optim.Adam(critic.parameters(), rates[1])
        self.baseline: float | None = None

    @torch.no_grad()
    def targets(self, rewards: Tensor, after: Tensor, last: Tensor) -> Tensor:
        """What the critic should have said: (batch, 1). `last` is 1 where the episode ended; moves the baseline."""
        mean = float(rewards.mean())
        self.baseline = mean if self.baseline is None else self.baseline + 0.5 * (mean - self.baseline)
        # y_i = r_i - b + gamma Q'(s_{i+1}, mu'(s_{i+1})), gamma = 1
        return rewards - self.baseline + (1 - last) * self.slow_critic(after, self.slow_actor(after))

    def learn(self, states: Tensor, actions: Tensor, rewards: Tensor, after: Tensor, last: Tensor) -> None:
        """One update from a batch of transitions; all but the states are (batch, 1)."""
        # Loss = 1/N sum_i (y_i - Q(s_i, a_i))^2
        loss = (self.targets(rewards, after, last) - self.critic(states, actions)).square().mean()
        self.critic_optimizer.zero_grad()
        loss.backward()
        self.critic_optimizer.step()
        # up along 1/N sum_i Q(s_i, mu(s_i)), by the actor's parameters
        self.actor_optimizer.zero_grad()
        (-self.critic(states, self.actor(states)).mean()).backward()
        self.actor_optimizer.step()
        with torch.no_grad():
            for slow, fast in ((self.slow_actor, self.actor), (self.slow_critic, self.critic)):
                for one, other in zip(slow.parameters(), fast.parameters(), strict=True):
                    one.lerp_(other, self.following)


def new_agent(features: int = 11, hidden: int = 300, generator: torch.Generator | None = None) -> Agent:
    """An agent of the size in the code of AMC's authors, drawn from the generator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        layers = [nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 1), nn.Sigmoid()]
        return Agent(nn.Sequential(*layers), Critic(features, hidden))
