"""AMC: an agent walks through the layers and learns by reinforcement how much of each to keep within a budget (he2018amc).

Idea: layers differ in how much they can lose. Instead of rules, a DDPG agent (an actor that proposes a continuous action, a
critic that foretells the reward) sees a description of each layer and answers with the fraction to keep. What it may keep is cut
so that the budget can still be met; the reward is the accuracy of the pruned network, without any fine-tuning in between.

Cost: one evaluation per episode, and as many updates of two small networks as there are layers; fine-tuning once, at the end.

Implementation details
1. State (t, n, c, h, w, stride, k, FLOPs[t], reduced, rest, a_{t-1}), each scaled to [0, 1] over the layers.
2. All transitions of an episode get its final reward; targets are reduced by a moving average b of the rewards; gamma is 1.
3. Warm-up episodes act uniformly; then noise is a normal distribution around the action, cut to [0, 1], of decaying width.
4. The replay memory keeps the action as proposed; the state's a_{t-1} is the fraction kept after the cut, as in the authors' code.
5. Which channels stay: those that the next layers read with the largest sum of absolute weights.
6. At least a fifth of every layer stays (the authors' `lbound`), and the network kept is the best one seen, not the last.

Deviations: an action decides how many channels a dependency group keeps, shortcuts included (the authors: each layer's input);
the group's first layer describes it. Channels are not rounded to multiples of eight, weights not reconstructed by least squares.
"""

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from reference_impls.core.amounts import Amount, Budget, as_amount
from reference_impls.core.ddpg import Agent, new_agent, truncated_normal
from reference_impls.core.groups import Group
from reference_impls.core.structures import Costs, one_example, per_unit, removable_groups, slice_norms, weights_among
from reference_impls.core.surgery import remove
from reference_impls.core.training import Batches, Train

UNIT = "channel"
GROUP = "network"
AMOUNTS = (Budget,)
NETWORK = "resnet8"
QUICK = {"episodes": 8, "warmup": 4}  # to see that it runs; far too few to learn
# idempotent holds within a budget only by chance: the agent may keep less; exact_count does not apply to a budget
TRAITS = frozenset({"shrinks"})


def error_reward(error: float, macs: float) -> float:
    """The reward under a budget: fewer errors, whatever the cost."""
    # R_err = -Error
    return -error


def error_and_cost_reward(error: float, macs: float) -> float:
    """The reward of the search that guards accuracy: a small incentive to save."""
    # R_FLOPs = -Error log(FLOPs)
    return -error * math.log(macs)


@dataclass
class Space:
    """The numbers of units that can be kept, step by step, and what they cost and earn."""

    sizes: list[int]  # units of each step
    least: list[int]  # of them that always stay
    features: Tensor  # (steps, 8): t, n, c, h, w, stride, k, FLOPs[t], not yet scaled
    cost: Callable[[Sequence[int]], float]  # of numbers of kept units, one per step
    reward: Callable[[Sequence[int]], float]
    budget: float

    def most(self, chosen: list[int]) -> int:
        """How many units the next step may keep so that the budget can still be met by keeping least of all later ones.

        Raises:
            ValueError: the budget is out of reach.
        """
        step = len(chosen)
        for number in range(self.sizes[step], self.least[step] - 1, -1):
            if self.cost([*chosen, number, *self.least[step + 1 :]]) <= self.budget:
                return number
        lowest = self.cost([*chosen, *self.least[step:]])
        raise ValueError(f"amount: a budget of {self.budget:g} is out of reach, the least is {lowest:g}")

    def state(self, chosen: list[int]) -> Tensor:
        """What the agent sees at the next step: (11,)."""
        step, dense = len(chosen), self.cost(self.sizes)
        low, high = self.features.min(0).values, self.features.max(0).values
        static = (self.features[step] - low) / (high - low).clamp(min=torch.finfo(high.dtype).tiny)
        costs = self.features[:, -1]
        # reduced: what earlier steps have saved; rest: what the layers of later steps cost
        reduced = 1 - self.cost([*chosen, *self.sizes[step:]]) / dense
        rest = float(costs[step + 1 :].sum() / costs.sum())
        last = chosen[-1] / self.sizes[step - 1] if chosen else 1.0
        return torch.cat([static, static.new_tensor([reduced, rest, last])])


def search(
    space: Space,
    agent: Agent,
    episodes: int,
    warmup: int,
    generator: torch.Generator | None = None,
    noise: float = 0.5,
    decay: float = 0.95,
) -> tuple[list[int], list[float]]:
    """The best numbers of kept units found, and the reward of every episode."""
    best: tuple[float, list[int]] = (-math.inf, [])
    rewards: list[float] = []
    memory: deque[tuple[Tensor, ...]] = deque(maxlen=100 * len(space.sizes))
    for episode in range(episodes):
        chosen: list[int] = []
        seen: list[tuple[Tensor, float]] = []
        for size, least in zip(space.sizes, space.least, strict=True):
            state = space.state(chosen)
            if episode < warmup:
                action = float(torch.rand((), generator=generator))
            else:
                with torch.no_grad():
                    action = truncated_normal(float(agent.actor(state)), noise * decay ** (episode - warmup), generator)
            seen.append((state, action))
            chosen.append(min(max(round(action * size), least), space.most(chosen)))
        rewards.append(space.reward(chosen))
        best = max(best, (rewards[-1], chosen), key=lambda pair: pair[0])
        after = [state for state, _ in seen[1:]] + [seen[-1][0]]
        for step, (state, action) in enumerate(seen):
            numbers = torch.tensor([action, rewards[-1], step == len(seen) - 1], dtype=state.dtype)
            memory.append((state, after[step], numbers))
        for _ in seen if episode >= warmup else ():
            picked = torch.randperm(len(memory), generator=generator)[:64].tolist()
            states, following, numbers = (torch.stack(part) for part in zip(*(memory[place] for place in picked), strict=True))
            agent.learn(states, numbers[:, :1], numbers[:, 1:2], following, numbers[:, 2:])
    return best[1], rewards


def keep_largest(model: nn.Module, group: Group, number: int) -> Tensor:
    """The channels that the next layers read with the largest weights: bool per unit; of equal ones the first go."""
    read = weights_among(model, group.consumers)
    score = sum(per_unit(member, slice_norms(weight, member.dim), group.size) for member, weight in read)
    keep = torch.ones(group.size, dtype=torch.bool)
    keep[score.argsort(stable=True)[: group.size - number].cpu()] = False
    return keep


def describe(model: nn.Module, groups: Sequence[Group], costs: Costs) -> Tensor:
    """(t, n, c, h, w, stride, k, FLOPs[t]) of the layer that makes each group: (groups, 8)."""
    rows = []
    for step, group in enumerate(groups):
        name = weights_among(model, group.producers)[0][0].layer
        layer = model.get_submodule(name)
        image = (*costs.inputs[name][2:], layer.stride[0], layer.kernel_size[0]) if isinstance(layer, nn.Conv2d) else (1, 1, 0, 1)
        rows.append((step, *layer.weight.shape[:2], *image, costs.dense[name]))
    return torch.tensor(rows, dtype=torch.float32)


def prune(
    model: nn.Module,
    batches: Batches,
    amount: Amount,
    *,
    train: Train | None = None,
    evaluate: Callable[[nn.Module], float] | None = None,
    reward: Callable[[float, float], float] = error_reward,
    episodes: int = 400,
    warmup: int = 100,
    generator: torch.Generator | None = None,
) -> nn.Module:
    """The best network that the agent has found within the budget, fine-tuned if `train` is given.

    Args:
        batches: one example is taken, to count costs.
        amount: `Budget(macs=...)`, the most that one example may cost.
        train: (model, callbacks) -> model.
        evaluate: model -> accuracy in [0, 1], on images held out from training.
        reward: (error in [0, 1], macs) -> what the agent learns to raise.
        episodes: networks that are tried, the warm-up included.
        warmup: episodes that act at random.
        generator: draws actions, the agent's weights and its batches.

    Raises:
        ValueError: `amount` is no budget of macs or out of reach, no batch, no `evaluate`, a NaN weight, or nothing can be removed.
    """
    budget = as_amount(amount, Budget).macs
    if budget is None:
        raise ValueError(f"amount: {amount!r}; this method counts multiply-accumulates, Budget(macs=...)")
    example = one_example(batches)
    groups = [g for g in removable_groups(model, example) if weights_among(model, g.producers) and weights_among(model, g.consumers)]
    if evaluate is None:
        raise ValueError("evaluate: the reward needs evaluate(model) -> accuracy")
    costs = Costs(model, groups, example)

    def cost(numbers: Sequence[int]) -> float:
        return costs(dict(zip((group.name for group in groups), numbers, strict=True)))

    def cut(numbers: Sequence[int]) -> nn.Module:
        return remove(model, groups, {g.name: keep_largest(model, g, number) for g, number in zip(groups, numbers, strict=True)})

    sizes = [group.size for group in groups]
    least = [max(1, round(size / 5)) for size in sizes]
    earn = lambda numbers: reward(1 - evaluate(cut(numbers)), cost(numbers))
    space = Space(sizes, least, describe(model, groups, costs), cost, earn, budget)
    small = cut(search(space, new_agent(generator=generator), episodes, warmup, generator)[0])
    return small if train is None else train(small)
