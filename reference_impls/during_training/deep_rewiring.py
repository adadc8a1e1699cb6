"""DEEP R: gradient descent with a random walk; a connection that would change its sign dies, another is born at random (bellec2018deep).

Idea: every possible connection has a sign of its own that never changes, and a strength theta >= 0. Learning moves the strength,
noise lets it wander, an l1 penalty pulls it down. Where the strength falls below zero the connection goes dormant, and a
dormant one, drawn at random, wakes up with strength zero. So the network samples architectures and weights together, and the
number of connections is never exceeded, not for a step.

Cost: that of training at the given density, and a draw of as many random numbers as there are weights per step. (Masks over dense
tensors, as here, show the method and save nothing.)

Implementation details
1. The sign of a connection is that of its initial weight, which for a symmetric initialization is a random sign: no weight changes
   before training. The authors draw signs apart.
2. The number of connections is constant in each layer, as in the authors' main script; another one of theirs keeps the total only.
3. A connection that has just gone dormant may be drawn again at once.
4. The authors' code scales the noise by the learning rate (1e-5 eta), the paper by sqrt(2 eta T); here the paper's. The default
   temperature gives equal noise at the code's eta = 0.5.
5. Which connections wake up does not depend on the loss, so no gradient of a dormant one is ever used.

Deviations: the gradient step is the optimizer's, so momentum or Adam may stand where the paper has plain gradient descent. An awakened
connection has strength exactly 0, as in the paper, where the code gives it 1e-12 to count it as active. Densities per layer follow the
Erdos-Renyi-Kernel rule of RigL; the authors choose them by hand.
"""

import math

import torch
from torch import Tensor, nn

from reference_impls.core.amounts import Amount, Sparsity, sparsity
from reference_impls.core.connections import Connections, grow_random, hold, random_connections
from reference_impls.core.densities import erdos_renyi_kernel
from reference_impls.core.masks import Masks, prunable_weights
from reference_impls.core.training import Callback

UNIT = "weight"
GROUP = "layer"
AMOUNTS = (Sparsity,)
NETWORK = "lenet_300_100"
# no exact_count: the layers' densities differ, each layer rounds its own, and an awakened connection is still 0
# no identity_at_zero: signs are kept and noise is added in a dense network, too
TRAITS = frozenset({"regrows"})


def walk(strength: Tensor, active: Tensor, learning_rate: float, l1: float, temperature: float, noise: Tensor) -> Tensor:
    """The strengths after one step of decay and random walk; those of dormant connections stay 0.

    Args:
        strength: theta, after the gradient step; of any shape.
        active: True = connected; shaped as the strength.
        learning_rate: eta, > 0.
        l1: alpha, the factor of the penalty, >= 0.
        temperature: T, >= 0.
        noise: nu, from a standard normal distribution; shaped as the strength.
    """
    # theta <- theta - eta alpha + sqrt(2 eta T) nu
    return (strength - learning_rate * l1 + math.sqrt(2 * learning_rate * temperature) * noise).masked_fill(~active, 0)


class Rewiring(Connections):
    """After every step: noise and decay; what has changed its sign goes dormant, as many others wake up."""

    def __init__(self, masks: Masks, l1: float, temperature: float, generator: torch.Generator | None) -> None:
        super().__init__(masks)
        self.l1, self.temperature, self.generator = l1, temperature, generator

    def start(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        # s_k, +1 where a weight begins at 0
        self.signs = {name: torch.where(weight < 0, -1.0, 1.0).to(weight) for name, weight in prunable_weights(model).items()}
        super().start(model, optimizer)

    @torch.no_grad()
    def after_step(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        rates = {id(weight): group["lr"] for group in optimizer.param_groups for weight in group["params"]}
        awakened = {}
        for name, weight in prunable_weights(model).items():
            active, sign = self.masks[name], self.signs[name]
            noise = torch.randn(weight.shape, generator=self.generator).to(weight)
            strength = walk(sign * weight, active, rates[id(weight)], self.l1, self.temperature, noise)
            # if theta_k < 0: dormant
            stays = active & (strength >= 0)
            weight.copy_(sign * strength)
            awakened[name] = grow_random(stays, int(active.sum()) - int(stays.sum()), self.generator)
            self.masks[name] = stays
        hold(model, optimizer, self.masks)  # with the new ones still absent: theta_k <- 0, and no past in the optimizer
        self.masks.update(awakened)


def callbacks(
    model: nn.Module,
    amount: Amount,
    *,
    steps: int,
    l1: float = 1e-5,
    temperature: float = 2.5e-11,
    generator: torch.Generator | None = None,
) -> list[Callback]:
    """Train sparse, and rewire after every step.

    Args:
        model: what will be trained, at initialization.
        amount: the fraction of all weights that is absent, in [0, 1).
        steps: not used.
        l1: alpha, the factor of the l1 penalty, >= 0.
        temperature: T of the random walk, >= 0.
        generator: draws the connections and the noise; the default generator if None.

    Raises:
        ValueError: an argument is outside its range.
    """
    density = 1 - sparsity(amount)
    for name, value in (("l1", l1), ("temperature", temperature)):
        if not 0 <= value < math.inf:
            raise ValueError(f"{name}: {value} is not a finite number >= 0")
    densities = erdos_renyi_kernel({name: weight.shape for name, weight in prunable_weights(model).items()}, density)
    return [Rewiring(random_connections(model, densities, generator), l1, temperature, generator)]
