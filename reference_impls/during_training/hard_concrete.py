"""L0 regularization: a random gate on every weight, hard concrete, so that the number of weights has a gradient (louizos2018learning).

Idea: the honest penalty of a network is how many weights it has, but that number has no gradient. So each weight is multiplied by a
random gate in [0, 1], and what is penalized is the probability that the gate is not zero, summed over all gates: the expected
number of weights. The gate's distribution is a concrete one, smooth on (0, 1), stretched a little beyond both ends and clipped:
exact zeros and ones occur, and still every sample is a function of its parameter that can be differentiated.

Cost: two more numbers per weight (a parameter and a random number), and a sigmoid of each in every step.

Implementation details, all as in the authors' code
1. Temperature 2/3, stretched to (-0.1, 1.1).
2. A gate starts at log alpha = log((1 - p) / p) with a little noise, p its dropout rate.
3. One sample of the gates per batch, shared by its examples; random numbers keep 1e-6 away from 0 and 1.
4. log alpha is kept within log(0.01) and log(100) after every step.
5. At the end a gate is the stretched and clipped sigmoid of log alpha, without noise; it is multiplied into its weight.

Deviations: one gate per weight, as in the paper's equations; the authors' layers share one among all weights of an input or a filter. Their
code also weighs an l2 penalty by the gates' probabilities; here there is none. The strength is the factor of the expected number itself,
which their code divides by the number of training examples. Between two steps the model holds a sample of its weights.
"""

import math

import torch
from torch import Tensor, nn

from reference_impls.core.amounts import Amount, Strength, as_amount
from reference_impls.core.masks import prunable_weights
from reference_impls.core.training import Callback

UNIT = "weight"
GROUP = "network"
AMOUNTS = (Strength,)
NETWORK = "lenet_300_100"
# no exact_count: how many go is what the penalty leads to; no fixed_mask: a closed gate may open again
TRAITS: frozenset[str] = frozenset()

BETA, GAMMA, ZETA = 2 / 3, -0.1, 1.1  # temperature, and the ends to which the concrete distribution is stretched
LIMIT = math.log(100)


def stretch(concrete: Tensor) -> Tensor:
    """From (0, 1) to the stretched interval, then clipped to [0, 1]: zero and one themselves become likely."""
    # z = min(1, max(0, s (zeta - gamma) + gamma))
    return (concrete * (ZETA - GAMMA) + GAMMA).clamp(0, 1)


def uniform(like: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Random numbers in (0, 1), at least 1e-6 away from both ends; shaped as `like`, of its dtype and on its device."""
    return torch.rand(like.shape, generator=generator).to(like).clamp(1e-6, 1 - 1e-6)


def sample(log_alpha: Tensor, noise: Tensor, temperature: float = BETA) -> Tensor:
    """Gates z in [0, 1] from random numbers.

    Args:
        log_alpha: location of each gate; of any shape.
        noise: u, uniform in (0, 1); shaped as `log_alpha`.
        temperature: beta, > 0; the lower, the more gates are 0 or 1.
    """
    # s = sigmoid((log u - log(1 - u) + log alpha) / beta)
    return stretch(((noise.logit() + log_alpha) / temperature).sigmoid())


def expected_gate(log_alpha: Tensor) -> Tensor:
    """The gates without noise, as used once training is over: in [0, 1], shaped as `log_alpha`."""
    return stretch(log_alpha.sigmoid())


def probability_open(log_alpha: Tensor, temperature: float = BETA) -> Tensor:
    """The probability that a gate is not zero, shaped as `log_alpha`; its sum is the expected L0 norm."""
    # 1 - Q(s <= 0) = sigmoid(log alpha - beta log(-gamma / zeta))
    return (log_alpha - temperature * math.log(-GAMMA / ZETA)).sigmoid()


class Gated(Callback):
    """Swaps the ungated weights in for the optimizer's step, and a sample of gated ones for everything else.

    Attributes:
        log_alpha: weight name -> parameter of its gates, shaped as the weight, from `start` on.
        theta: weight name -> the weight without its gates, from `start` on.
    """

    def __init__(self, strength: float, dropout_rate: float, generator: torch.Generator | None) -> None:
        self.strength, self.dropout_rate, self.generator = strength, dropout_rate, generator

    def start(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        center = math.log((1 - self.dropout_rate) / self.dropout_rate)
        self.log_alpha, self.theta = {}, {}
        for name, weight in prunable_weights(model).items():
            noise = torch.randn(weight.shape, generator=self.generator).to(weight)
            self.log_alpha[name] = nn.Parameter(center + 0.01 * noise)
            self.theta[name] = weight.detach().clone()
        optimizer.add_param_group({"params": list(self.log_alpha.values())})
        self._sample(model)

    def penalty(self, model: nn.Module) -> Tensor:
        # lambda sum_j (1 - Q(s_j <= 0 | phi_j))
        return self.strength * sum(probability_open(log_alpha).sum() for log_alpha in self.log_alpha.values())

    def after_backward(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for name, weight in prunable_weights(model).items():
            if weight.grad is not None:
                # the chain rule from the gated weight to the weight and to its gate
                self.gated[name].backward(weight.grad)
                weight.grad = self.theta[name].grad
            weight.data.copy_(self.theta[name].detach())

    @torch.no_grad()
    def after_step(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for name, weight in prunable_weights(model).items():
            self.log_alpha[name].clamp_(-LIMIT, LIMIT)
            self.theta[name] = weight.detach().clone()
        self._sample(model)

    @torch.no_grad()
    def finish(self, model: nn.Module) -> nn.Module:
        for name, weight in prunable_weights(model).items():
            # theta_hat = theta z_hat
            weight.copy_(self.theta[name] * expected_gate(self.log_alpha[name]))
        return model

    @torch.enable_grad()
    def _sample(self, model: nn.Module) -> None:
        self.gated = {}
        for name, weight in prunable_weights(model).items():
            # theta z
            self.gated[name] = self.theta[name].requires_grad_() * sample(self.log_alpha[name], uniform(weight, self.generator))
            weight.data.copy_(self.gated[name].detach())


def callbacks(
    model: nn.Module, amount: Amount, *, steps: int = 0, dropout_rate: float = 0.5, generator: torch.Generator | None = None
) -> list[Callback]:
    """Train with gates on all weights; `fit` returns the network with its gates multiplied in.

    Args:
        model: what will be trained.
        amount: `Strength(lambda)`, the price of one weight in units of the loss.
        steps: not used.
        dropout_rate: p at the start, in (0, 1).
        generator: draws the gates; the default generator if None.

    Raises:
        ValueError: `amount` is no strength, `dropout_rate` is outside its range, or a weight is NaN or infinite.
    """
    strength = as_amount(amount, Strength).factor
    if not 0 < dropout_rate < 1:
        raise ValueError(f"dropout_rate: {dropout_rate} is not in (0, 1)")
    prunable_weights(model)
    return [Gated(strength, dropout_rate, generator)]
