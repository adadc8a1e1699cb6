"""Bayesian Bits: how many bits a weight has, and whether it is there at all, is one chain of gates (vanbaalen2020bayesian).

Idea: round coarsely to 2 bits; what is left over, rounded again, makes it 4 bits; what is then left over makes it 8, and so on: each
step doubles the bits. So a number of bits is a number of residuals that are added, and a gate on each residual chooses it. A gate on the
first step, one for each filter, is pruning: zero bits. The gates are random, their prior would rather have them closed, and the penalty
that follows is the sum of the probabilities that each step is reached.

Cost: five roundings of every weight per step of training, and few gates. At the end a weight costs its layer's bits.

Implementation details, as in the authors' code
1. Step sizes: s_2 = range / 3, then s_4 = s_2 / 5, s_8 = s_4 / 17, s_16 = s_8 / 257, s_32 = s_16 / 65537: each grid holds the one before.
2. Rounding lets gradients straight through; clipping to the range does not.
3. Hard concrete gates of temperature 2/3. The gate of 2 bits is one per filter and begins at 6, the others are one per layer and begin at
   2/3 log 9. At the end a gate is open where the probability that it is zero is below 0.34.
4. The penalty of a layer: mean over the filters of q_2 + q_2 q_4 + q_2 q_4 q_8 + ..., q the probabilities to be open.

Deviations: only weights are quantized, not activations. The range is from minus to plus the largest weight at the start and stays, where
the authors can learn it. All steps cost the same (their default); weighing them by their operations is left out. The last layer's outputs
are not pruned; a pruned filter keeps its bias. The paper's text was not at hand, only its abstract and the authors' code.
"""

import math

import torch
from torch import Tensor, nn

from reference_impls.core.amounts import Amount, Strength, as_amount
from reference_impls.core.masks import prunable_weights
from reference_impls.core.training import Callback
from reference_impls.during_training.hard_concrete import probability_open, sample, uniform

UNIT = "filter"
GROUP = "network"
AMOUNTS = (Strength,)
NETWORK = "convnet"
# no exact_count: what goes is what the penalty leads to; no fixed_mask: a closed gate may open again while it trains
TRAITS: frozenset[str] = frozenset()

BITS = (2, 4, 8, 16, 32)
THRESHOLD = 0.34


def straight_through_round(x: Tensor) -> Tensor:
    """The nearest whole number, with the gradient of the identity."""
    return x + (x.round() - x).detach()


def quantized(weight: Tensor, limit: Tensor, gates: tuple[Tensor, ...]) -> Tensor:
    """The weight as a gated sum of residuals, shaped as the weight.

    Args:
        weight: x, (filters, ...).
        limit: largest magnitude, > 0; larger weights are clipped to it.
        gates: z_2 of shape (filters,), then z_4, z_8, z_16 and z_32, each of shape ().
    """
    inside = (1 - 1e-7) * limit  # at the limit itself 1.5 steps would be rounded up, out of the range
    weight = weight.clamp(-inside, inside)
    # s_2 = 2 limit / (2^2 - 1);  s_2b = s_b / (2^b + 1)
    size, residuals, reached = 2 * limit / 3, [], torch.zeros_like(weight)
    for bits in BITS:
        # e_b = s_b round((x - x_(b/2)) / s_b)
        residuals.append(size * straight_through_round((weight - reached) / size))
        reached, size = reached + residuals[-1], size / (2**bits + 1)
    total = torch.zeros_like(weight)
    # x_q = z_2 (x_2 + z_4 (e_4 + z_8 (e_8 + z_16 (e_16 + z_32 e_32))))
    for residual, gate in zip(residuals[:0:-1], gates[:0:-1], strict=True):
        total = gate * (residual + total)
    return gates[0].view(-1, *[1] * (weight.dim() - 1)) * (residuals[0] + total)


def price(log_alphas: list[Tensor]) -> Tensor:
    """The penalty of one layer: how many steps its filters reach, on average, in expectation; from 0 to 5.

    Args:
        log_alphas: of z_2, (filters,), and of the others, each ().
    """
    reached, total = torch.ones_like(log_alphas[0]), torch.zeros_like(log_alphas[0])
    for log_alpha in log_alphas:
        # sum_b prod_(c <= b) q(z_c > 0)
        reached = reached * probability_open(log_alpha)
        total = total + reached
    return total.mean()


def decided(log_alpha: Tensor) -> Tensor:
    """Gates without noise: 1 where the probability of zero is below the threshold, else 0."""
    # q(z = 0) < t
    return (1 - probability_open(log_alpha) < THRESHOLD).to(log_alpha)


class Bits(Callback):
    """Swaps the full weights in for the optimizer's step, and quantized ones for everything else.

    Attributes:
        log_alphas: weight name -> parameters of its gates, from `start` on: (filters,), then four of shape ().
        theta: weight name -> the full weight, from `start` on.
    """

    def __init__(self, strength: float, gate_rate: float | None, generator: torch.Generator | None) -> None:
        self.strength, self.generator = strength, generator
        self.options = {} if gate_rate is None else {"lr": gate_rate}

    def start(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        weights = prunable_weights(model)
        self.log_alphas, self.theta = {}, {name: weight.detach().clone() for name, weight in weights.items()}
        self.limits = {name: weight.abs().max().clamp(min=1e-8) for name, weight in self.theta.items()}
        for name, weight in self.theta.items():
            filters, rest = weight.new_full((len(weight),), 6.0), [weight.new_tensor(2 / 3 * math.log(9)) for _ in BITS[1:]]
            self.log_alphas[name] = [nn.Parameter(start) for start in (filters, *rest)]
        self.log_alphas[list(weights)[-1]][0].data.fill_(math.inf)  # always open
        gates = [log_alpha for own in self.log_alphas.values() for log_alpha in own if log_alpha.isfinite().all()]
        optimizer.add_param_group({"params": gates, **self.options})
        self._quantize(model)

    def penalty(self, model: nn.Module) -> Tensor:
        return self.strength * sum(price(own) for own in self.log_alphas.values())

    def after_backward(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for name, weight in prunable_weights(model).items():
            if weight.grad is not None:
                # the chain rule from the quantized weight to the full one and to the gates
                self.drawn[name].backward(weight.grad)
                weight.grad = self.theta[name].grad
            weight.data.copy_(self.theta[name].detach())

    def after_step(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for name, weight in prunable_weights(model).items():
            self.theta[name] = weight.detach().clone()
        self._quantize(model)

    @torch.no_grad()
    def finish(self, model: nn.Module) -> nn.Module:
        for name, weight in prunable_weights(model).items():
            gates = tuple(decided(log_alpha) for log_alpha in self.log_alphas[name])
            weight.copy_(quantized(self.theta[name], self.limits[name], gates))
        return model

    def bits(self) -> dict[str, int]:
        """The number of bits that each weight tensor's kept filters have: 2, 4, 8, 16 or 32."""
        chosen = {}
        for name, (_, *rest) in self.log_alphas.items():
            open_until = torch.stack([decided(log_alpha.detach()) for log_alpha in rest]).cumprod(0).sum()
            chosen[name] = BITS[int(open_until)]
        return chosen

    @torch.enable_grad()
    def _quantize(self, model: nn.Module) -> None:
        self.drawn = {}
        for name, weight in prunable_weights(model).items():
            gates = tuple(sample(log_alpha, uniform(log_alpha, self.generator)) for log_alpha in self.log_alphas[name])
            self.drawn[name] = quantized(self.theta[name].requires_grad_(), self.limits[name], gates)
            weight.data.copy_(self.drawn[name].detach())


def callbacks(
    model: nn.Module,
    amount: Amount,
    *,
    steps: int = 0,
    gate_rate: float | None = None,
    generator: torch.Generator | None = None,
) -> list[Callback]:
    """Train with gated bits; `fit` returns the network with weights on their grids, and filters of zero bits zero.

    Args:
        model: what will be trained, usually trained before.
        amount: `Strength(lambda)`, the price of one step of bits for one layer, in units of the loss.
        steps: not used.
        gate_rate: learning rate of the gates' parameters, > 0; the optimizer's own if None, which is small for gates in a short run.
        generator: draws the gates; the default generator if None.

    Raises:
        ValueError: `amount` is no strength, `gate_rate` is outside its range, or a weight is NaN or infinite.
    """
    strength = as_amount(amount, Strength).factor
    if gate_rate is not None and not 0 < gate_rate < math.inf:
        raise ValueError(f"gate_rate: {gate_rate} is not a finite number > 0")
    prunable_weights(model)
    return [Bits(strength, gate_rate, generator)]
