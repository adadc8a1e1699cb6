"""Sparse variational dropout: every weight learns how noisy it may be; those that are all noise go (molchanov2017variational).

Idea: Gaussian dropout multiplies a weight by noise of mean 1 and variance alpha. Seen as Bayesian inference, alpha is a parameter of the
posterior: one for each weight, to be learned. Under a log-uniform prior the divergence from the prior falls as alpha grows, so every weight
becomes as noisy as the loss allows. Without an upper bound, alpha of a useless weight runs to infinity: it is a dropout rate of 1.
To keep gradients quiet, the noise is written as added, theta + sigma e, so that a small theta is not disturbed by a large alpha; and
not the weights are drawn but the sums that they feed, for each example.

Cost: one more number per weight, a second pass of every layer (squared inputs through the variances), and a random number per output.

Implementation details
1. The divergence is approximated by a fitted function of log alpha with three constants; additive constant such that it ends at 0.
2. A weight goes where log alpha is at least 3 (a dropout rate above 0.95).
3. log alpha is clipped to [-8, 8]; log sigma^2 begins at -10.
4. With the strength 1 / (number of training examples) the loss is the negative evidence lower bound per example: nothing to tune.

Deviations: the constants and 2 and 3 are read in two reimplementations, as the authors' code was not at hand. The divergence has its full
weight from the first step; raising it slowly is left to the caller. Biases have no noise. Before the end, evaluation uses all means.
"""

import torch
from torch import Tensor, nn
from torch.func import functional_call

from reference_impls.core.amounts import Amount, Strength, as_amount
from reference_impls.core.masks import prunable_weights
from reference_impls.core.training import Callback

UNIT = "weight"
GROUP = "network"
AMOUNTS = (Strength,)
NETWORK = "lenet_300_100"
# no exact_count: how many go is what the divergence leads to; no fixed_mask: nothing is zero before the end
TRAITS: frozenset[str] = frozenset()

K1, K2, K3 = 0.63576, 1.87320, 1.48695
THRESHOLD = 3.0
LIMIT = 8.0


def log_alpha(theta: Tensor, log_variance: Tensor) -> Tensor:
    """log alpha of each weight, within [-8, 8].

    Args:
        theta: means; of any shape.
        log_variance: log sigma^2; shaped as `theta`.
    """
    # alpha = sigma^2 / theta^2
    return (log_variance - (theta.square() + 1e-8).log()).clamp(-LIMIT, LIMIT)


def divergence(log_alpha: Tensor) -> Tensor:
    """D_KL from the log-uniform prior to each weight's posterior, approximated; > 0, falls to 0 as alpha grows."""
    # -D_KL = k1 sigmoid(k2 + k3 log alpha) - 1/2 log(1 + 1 / alpha) - k1
    return K1 - K1 * (K2 + K3 * log_alpha).sigmoid() + 0.5 * torch.log1p((-log_alpha).exp())


class VariationalDropout(Callback):
    """Adds noise to what every layer puts out in training; zeroes the noisiest weights at the end.

    Attributes:
        log_variance: weight name -> parameter log sigma^2, shaped as the weight, from `start` on.
    """

    def __init__(self, strength: float, log_variance: float, generator: torch.Generator | None) -> None:
        self.strength, self.first, self.generator = strength, log_variance, generator

    def start(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        weights = prunable_weights(model)
        self.log_variance = {name: nn.Parameter(torch.full_like(weight, self.first)) for name, weight in weights.items()}
        optimizer.add_param_group({"params": list(self.log_variance.values())})
        names = {id(weight): name for name, weight in weights.items()}
        layers = [module for module in model.modules() if id(getattr(module, "weight", None)) in names]
        self.names = {layer: names[id(layer.weight)] for layer in layers}
        self.squared = False  # a layer's second pass, which must not add noise again
        self.hooks = [layer.register_forward_hook(self._add_noise) for layer in layers]

    def penalty(self, model: nn.Module) -> Tensor:
        # lambda sum_ij D_KL(q(w_ij | theta_ij, alpha_ij) || p(w_ij))
        return self.strength * sum(divergence(found).sum() for found in self.log_alphas(model).values())

    @torch.no_grad()
    def finish(self, model: nn.Module) -> nn.Module:
        for hook in self.hooks:
            hook.remove()
        for name, found in self.log_alphas(model).items():
            model.get_parameter(name).masked_fill_(found >= THRESHOLD, 0)
        return model

    def log_alphas(self, model: nn.Module) -> dict[str, Tensor]:
        """log alpha of every weight: name -> shaped as the weight."""
        return {name: log_alpha(model.get_parameter(name), log_variance) for name, log_variance in self.log_variance.items()}

    def _add_noise(self, layer: nn.Module, args: tuple[Tensor, ...], outputs: Tensor) -> Tensor | None:
        if self.squared or not layer.training:
            return None
        variances = {"weight": self.log_variance[self.names[layer]].exp()}
        if layer.bias is not None:
            variances["bias"] = torch.zeros_like(layer.bias)
        self.squared = True
        # delta_mj = sum_i a_mi^2 sigma_ij^2
        variance = functional_call(layer, variances, (args[0].square(),))
        self.squared = False
        noise = torch.randn(outputs.shape, generator=self.generator).to(outputs)
        # b_mj = gamma_mj + sqrt(delta_mj) e_mj
        return outputs + (variance + 1e-8).sqrt() * noise


def callbacks(
    model: nn.Module, amount: Amount, *, steps: int = 0, log_variance: float = -10.0, generator: torch.Generator | None = None
) -> list[Callback]:
    """Train with a dropout rate of its own for every weight; `fit` returns the network without the weights whose rate is near 1.

    Args:
        model: what will be trained.
        amount: `Strength(lambda)`, the factor of the divergence; 1 / (number of training examples) for the evidence lower bound.
        steps: not used.
        log_variance: log sigma^2 of all weights at the start.
        generator: draws the noise; the default generator if None.

    Raises:
        ValueError: `amount` is no strength, or a weight is NaN or infinite.
    """
    strength = as_amount(amount, Strength).factor
    prunable_weights(model)
    return [VariationalDropout(strength, log_variance, generator)]
