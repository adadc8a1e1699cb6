"""TAS: widths and depths are distributions that gradients train, and the network found learns from the original (dong2019network).

Idea: search the sizes of a pruned network: every width and depth is one of a few numbers, with a trainable probability each. In the
search a layer runs at two widths drawn from its distribution, a stage at all its depths, and a mixture comes out, weighted by the
probabilities; so the loss reaches these, and a penalty for the expected cost leads to the budget. The most probable sizes make the
network, which learns from the original by distillation.

Cost: a search of `epochs`, with two passes a step; one training, with a pass of the original beside it.

Implementation details (of the authors' code)
1. Widths are 0.3, 0.4, ... 1 times a layer's, the first channels each; depths a third, two thirds or all of a stage's blocks.
2. Gumbel noise and a temperature that falls along a cosine make the draw: two widths without replacement, weighted by the softmax of
   their noisy logits. The narrower map is stretched to the wider by averaging over channels, the rest filled with zeros.
3. Weights learn from one half of the batches, logits from the other, in turns. The penalty is log E[cost] while the most probable
   network is too dear, -log E[cost] while it is far cheaper; E[cost] multiplies the layers' expected widths.
4. Distillation: (1 - alpha) cross entropy + alpha T^2 KL(original || network), of logits divided by T.

Deviations: width and depth are searched at once. Channels that a shortcut joins have one width; all widths share one normalization. If
the most probable network is too dear, sizes go down where that costs least probability. What is found starts from the original's
first channels. `train` adds the cross entropy whole, so 4 is divided by 1 - alpha. Rates, temperatures, alpha are not the paper's.
"""

import copy
import math
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reference_impls.core.amounts import Amount, Budget, as_amount
from reference_impls.core.blocks import walk
from reference_impls.core.groups import Group
from reference_impls.core.rounds import made_by_convolutions
from reference_impls.core.structures import Costs, one_example, removable_groups
from reference_impls.core.surgery import remove
from reference_impls.core.training import Batches, Callback, Train, cross_entropy, momentum_sgd, needed

UNIT = "channel"
GROUP = "network"
AMOUNTS = (Budget,)
NETWORK = "resnet8"
QUICK = {"epochs": 1}  # to see that it runs
# idempotent does not hold: the search starts again; exact_count does not apply to a budget
TRAITS = frozenset({"shrinks"})


class Choice(NamedTuple):
    """A size that is searched: the width of a group that `modules` put out, or the depth of a stage whose blocks they are; sizes rise."""

    name: str
    sizes: tuple[int, ...]
    modules: tuple[str, ...]
    depth: bool


def widths(model: nn.Module, groups: Sequence[Group]) -> list[Choice]:
    """A choice per group; its channels are mixed after batch normalization, if there is one. Concatenated channels stay whole."""
    found = []
    for group in groups:
        layers = tuple(dict.fromkeys(member.layer for member in group.producers))
        norms = tuple(name for name in layers if isinstance(model.get_submodule(name), nn.modules.batchnorm._BatchNorm))
        if all(torch.equal(member.units, torch.arange(group.size)) for member in group.producers):
            sizes = tuple(sorted({max(1, int(group.size * tenths / 10)) for tenths in range(3, 11)}))
            found.append(Choice(group.name, sizes, norms or layers, False))
    return found


def depths(model: nn.Module, example: Tensor) -> list[Choice]:
    """A choice per stage of the longest module list: a block, and the trainable ones after it whose output has the same shape."""
    lists = [(len(module), name) for name, module in model.named_modules() if isinstance(module, nn.ModuleList) and len(module)]
    stages: list[list[str]] = []
    for _, name in sorted(lists)[-1:]:
        for place, (block, [(inputs, _)]) in enumerate(walk(model, [(example, example)], list(model.get_submodule(name)))):
            same = inputs[0].shape == block(*inputs).shape and all(parameter.requires_grad for parameter in block.parameters())
            stages = [*stages[:-1], [*stages[-1], f"{name}.{place}"]] if place and same else [*stages, [f"{name}.{place}"]]
    sizes = [sorted({max(1, len(stage) * third // 3) for third in (1, 2, 3)}) for stage in stages]
    return [Choice(f"depth of {s[0]}", tuple(size), tuple(s), True) for s, size in zip(stages, sizes, strict=True) if len(size) > 1]


def mixture(maps: Tensor, sizes: Sequence[int], weights: Tensor) -> Tensor:
    """The maps (examples, channels, ...) at some widths, stretched to the widest, summed by weights, and zero beyond it."""
    widest, flat = max(sizes), maps.flatten(2)
    # sum_k p_k CWI(x[:c_k], max c)
    mixed = sum(p * F.adaptive_avg_pool2d(flat[:, :size], (widest, flat.shape[2])) for size, p in zip(sizes, weights, strict=True))
    return F.pad(mixed, (0, 0, 0, flat.shape[1] - widest)).view_as(maps)


class Search:
    """A network that runs at mixed sizes, and the logits of its choices."""

    def __init__(self, model: nn.Module, choices: Sequence[Choice], costs: Costs, generator: torch.Generator | None = None) -> None:
        self.network, self.choices, self.costs, self.generator = copy.deepcopy(model), choices, costs, generator
        starts = [0.01 * torch.randn(len(choice.sizes), generator=generator) for choice in choices]
        self.logits = [start.to(next(model.parameters())).requires_grad_(True) for start in starts]
        for place, choice in enumerate(choices):
            maps: dict[int, Tensor] = {}  # of the stage: how many blocks -> output
            for number, name in enumerate(choice.modules, 1):
                self.network.get_submodule(name).register_forward_hook(partial(self._mix, place, number, maps))

    def _mix(self, place: int, number: int, maps: dict[int, Tensor], _: nn.Module, inputs: object, output: Tensor) -> Tensor:
        sizes, weights = self.drawn[place]
        if not self.choices[place].depth:
            return mixture(output, sizes, weights)
        maps[number] = output
        last = number == len(self.choices[place].modules)
        return sum(weight * maps[size] for size, weight in zip(sizes, weights, strict=True)) if last else output

    def __call__(self, inputs: Tensor, temperature: float) -> Tensor:
        self.drawn = []  # per choice the sizes that run, and their weights
        for choice, logits in zip(self.choices, self.logits, strict=True):
            uniform = torch.rand(logits.shape, generator=self.generator).clamp(1e-6, 1 - 1e-6).to(logits)
            # (log p + g) / tau, g = -log(-log u)
            noisy = (logits.log_softmax(0) - (-uniform.log()).log()) / temperature
            number = len(noisy) if choice.depth else min(2, len(noisy))
            picked = torch.multinomial(noisy.detach().softmax(0).double().cpu() + 1e-7, number, generator=self.generator).tolist()
            self.drawn.append(([choice.sizes[place] for place in picked], noisy[picked].softmax(0)))
        return self.network(inputs)

    def cost(self, picked: Sequence[int] | None = None) -> Tensor:
        """Multiply-accumulates of picked sizes, a place in each choice; by default of those that the distributions lead one to expect."""
        chances = [logits.softmax(0) for logits in self.logits]
        if picked is not None:
            chances = [F.one_hot(torch.tensor(place), len(chance)).double() for place, chance in zip(picked, chances, strict=True)]
        mean = {c.name: (p * p.new_tensor(c.sizes)).sum() for c, p in zip(self.choices, chances, strict=True)}
        costs = {layer: chances[0].new_tensor(float(dense)) for layer, dense in self.costs.dense.items()}
        for (layer, _), (size, parts) in self.costs.cuts.items():
            costs[layer] = costs[layer] * (1 - sum((whole - mean.get(name, whole)) * indices for name, whole, indices in parts) / size)
        for choice, p in zip(self.choices, chances, strict=True):
            for number, block in enumerate(choice.modules if choice.depth else (), 1):
                # P(depth >= number)
                runs = p[[size >= number for size in choice.sizes]].sum()
                costs |= {layer: cost * runs for layer, cost in costs.items() if layer.startswith(f"{block}.")}
        return sum(costs.values())

    def penalty(self, budget: float, tolerance: float = 0.05) -> Tensor:
        """log E[cost], with the sign that leads the most probable structure to the budget."""
        now = self.cost([int(logits.argmax()) for logits in self.logits])
        return (int(now > budget) - int(now < (1 - tolerance) * budget)) * self.cost().log()

    def structure(self, budget: float) -> list[int]:
        """The most probable structure; while it is too dear, one size goes down, where this costs least probability."""
        chances, picked = [logits.detach().log_softmax(0) for logits in self.logits], [int(logits.argmax()) for logits in self.logits]
        while self.cost(picked) > budget:
            losses = {place: float(chances[place][now] - chances[place][now - 1]) for place, now in enumerate(picked) if now > 0}
            picked[min(losses, key=losses.__getitem__)] -= 1
        return picked


def build(model: nn.Module, groups: Sequence[Group], choices: Sequence[Choice], picked: Sequence[int]) -> nn.Module:
    """A network of the picked sizes."""
    sizes = {choice.name: choice.sizes[place] for choice, place in zip(choices, picked, strict=True)}
    small = remove(model, groups, {g.name: torch.arange(g.size) < sizes.get(g.name, g.size) for g in groups})
    gone = {block for choice in choices if choice.depth for block in choice.modules[sizes[choice.name] :]}
    for name in {block.rpartition(".")[0] for block in gone}:
        left = [block for place, block in small.get_submodule(name).named_children() if f"{name}.{place}" not in gone]
        small.set_submodule(name, nn.ModuleList(left))
    return small


class Distillation(Callback):
    """Adds what the network has to learn from its teacher."""

    def __init__(self, teacher: nn.Module, alpha: float = 0.5, temperature: float = 4.0) -> None:
        self.teacher, self.alpha, self.temperature = copy.deepcopy(teacher).eval().requires_grad_(False), alpha, temperature

    def start(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.hook = model.register_forward_hook(lambda _, inputs, outputs: setattr(self, "seen", (inputs, outputs)))

    def penalty(self, model: nn.Module) -> Tensor:
        inputs, outputs = self.seen
        taught, learned = (self.teacher(*inputs) / self.temperature).softmax(-1), (outputs / self.temperature).log_softmax(-1)
        # alpha T^2 KL(p_teacher || p) / (1 - alpha)
        return self.alpha * self.temperature**2 / (1 - self.alpha) * F.kl_div(learned, taught, reduction="batchmean")

    def finish(self, model: nn.Module) -> nn.Module:
        self.hook.remove()
        return model


def prune(
    model: nn.Module,
    batches: Batches,
    amount: Amount,
    *,
    train: Train | None = None,
    evaluate: object = None,
    epochs: int = 20,
    generator: torch.Generator | None = None,
) -> nn.Module:
    """The network of the sizes found, trained with the model as its teacher.

    Args:
        batches: the search learns weights from every other one, and sizes from those between, for `epochs`.
        amount: `Budget(macs=...)`, the most that one example may cost. evaluate: not used.

    Raises:
        ValueError: `amount` is no budget of macs or out of reach, no batch, no `train`, a NaN weight, or nothing can be removed.
    """
    if (budget := as_amount(amount, Budget).macs) is None:
        raise ValueError(f"amount: {amount!r}; this method counts multiply-accumulates, Budget(macs=...)")
    groups = made_by_convolutions(model, removable_groups(model, example := one_example(batches)))
    choices = [*widths(model, groups), *depths(model, example)]
    if not choices:
        raise ValueError("model: nothing to prune, its channels are concatenated and no block can be left out")
    search = Search(model, choices, Costs(model, groups, example), generator)
    if (least := search.cost([0] * len(choices))) > budget:
        raise ValueError(f"amount: a budget of {budget:g} is out of reach, the least is {least:g}")
    learned, data = needed(train), list(batches)
    weights, sizes = momentum_sgd(list(search.network.train().parameters()), 0.05), torch.optim.Adam(search.logits, 0.05)
    for step in range(steps := epochs * ((len(data) + 1) // 2)):
        heat = 0.1 + 4.9 * (1 + math.cos(math.pi * step / steps)) / 2
        for optimizer, half, factor in ((weights, data[::2], 0), (sizes, data[1::2] or data, 2)):
            inputs, targets = half[step % len(half)]
            optimizer.zero_grad()
            (cross_entropy(search(inputs, heat), targets) + factor * search.penalty(budget)).backward()
            optimizer.step()
    return learned(build(model, groups, choices, search.structure(budget)), [Distillation(model)])
