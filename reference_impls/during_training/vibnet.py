"""VIBNet: noise on every neuron squeezes the information between layers, and neurons that pass on none go (dai2018compressing).

Idea: a layer should pass on what foretells the target and nothing else: an information bottleneck between every two layers. Each neuron's
output is multiplied by a random factor z = mu + sigma e. A variational bound on the information that gets through has a closed form, half
the logarithm of 1 + mu^2 / sigma^2 for each neuron: a penalty that saturates, so it hardly touches neurons with a clear signal and
drives the others to noise. Where noise is stronger than signal, the neuron is redundant, and the network becomes narrower for real.

Cost: three numbers per neuron (mean, variance, a random number for each example) and one product per activation in training; nothing later.

Implementation details, as in the authors' code unless 4 or 5
1. mu begins near 1, log sigma^2 near -9, each with noise of deviation 0.01.
2. A neuron is kept where log(sigma^2 / mu^2) is below 0. Without sampling its factor is mu; at the end mu is multiplied into the weights.
3. A channel's term counts once for each of its activations (positions, or entries after flattening).
4. The factor stands at the input of the layers that read a neuron, behind activation and pooling; in the authors' VGG it stands before the
   pooling. All that read the same neurons share one sample.
5. One neuron of each layer always stays: the one with the least noise.

Deviations: one strength for all layers; the authors' code can weigh the layers differently. Units that a normalization over channels reads
are left alone. The paper's text was not at hand: what is said of it is from its abstract and the authors' code.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from reference_impls.core.amounts import Amount, Strength, as_amount
from reference_impls.core.groups import Group, Member
from reference_impls.core.masks import prunable_weights
from reference_impls.core.structures import LAYERS, removable_groups
from reference_impls.core.surgery import remove
from reference_impls.core.training import Callback

UNIT = "neuron"
GROUP = "network"
AMOUNTS = (Strength,)
NETWORK = "convnet"
# no exact_count and no shrinks: how many go is what the penalty leads to, and at a small strength none may go
TRAITS: frozenset[str] = frozenset()


def information(mu: Tensor, log_variance: Tensor) -> Tensor:
    """The bound on what each neuron passes on, >= 0: its divergence from the best prior of mean zero.

    Args:
        mu: mean of the factor; of any shape.
        log_variance: log sigma^2; shaped as `mu`.
    """
    # 1/2 log(1 + mu^2 / sigma^2)
    return 0.5 * torch.log1p(mu.square() / (log_variance.exp() + 1e-8))


def log_alpha(mu: Tensor, log_variance: Tensor) -> Tensor:
    """Noise against signal: log(sigma^2 / mu^2), shaped as `mu`."""
    return log_variance - (mu.square() + 1e-8).log()


def readable(model: nn.Module, group: Group) -> bool:
    """Whether all that reads the group's units are layers at whose input a factor can stand."""
    readers = [model.get_submodule(member.layer) for member in group.consumers]
    columns = all(member.dim == 1 for member in group.consumers)
    return group.exact and bool(readers) and columns and all(isinstance(r, LAYERS) and getattr(r, "groups", 1) == 1 for r in readers)


class Bottleneck(Callback):
    """Multiplies noise into what the layers read, and in the end removes the neurons that are mostly noise.

    Attributes:
        mu: group name -> parameter, one number per neuron; there once the first batch has been seen.
        log_variance: group name -> parameter log sigma^2, shaped as `mu`.
    """

    def __init__(self, strength: float, generator: torch.Generator | None) -> None:
        self.strength, self.generator = strength, generator

    def start(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.mu, self.log_variance, self.factors, self.activations = {}, {}, {}, {}

        def first(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            self.hooks.pop(0).remove()
            self._insert(model, optimizer, inputs[0])
            self._draw(model, inputs)

        self.hooks = [model.register_forward_pre_hook(first)]

    def penalty(self, model: nn.Module) -> Tensor:
        # gamma sum_i activations_i 1/2 log(1 + mu_i^2 / sigma_i^2)
        terms = [n * information(self.mu[name], self.log_variance[name]).sum() for name, n in self.activations.items()]
        return self.strength * sum(terms)

    @torch.no_grad()
    def finish(self, model: nn.Module) -> nn.Module:
        for hook in self.hooks:
            hook.remove()
        kept = {name: self._kept(name) for name in self.mu}
        for group in self.groups:
            for member in group.consumers:
                weight = model.get_parameter(member.tensor)
                columns = self._along(member, self.mu[group.name])
                weight.mul_(columns.view(-1, *[1] * (weight.dim() - 2)))
        return remove(model, self.groups, kept)

    def _kept(self, name: str) -> Tensor:
        noise = log_alpha(self.mu[name], self.log_variance[name])
        return (noise < 0) | (torch.arange(len(noise), device=noise.device) == noise.argmin())

    @staticmethod
    def _along(member: Member, values: Tensor) -> Tensor:
        """Values per neuron (..., neurons) along what a layer reads (..., inputs); 1 for an input that is no neuron of the group."""
        units = member.units.to(values.device)
        return values[..., units.clamp(min=0)].where(units >= 0, 1)

    def _insert(self, model: nn.Module, optimizer: torch.optim.Optimizer, inputs: Tensor) -> None:
        self.groups = [group for group in removable_groups(model, inputs[:1]) if readable(model, group)]
        if not self.groups:
            raise ValueError("model: nothing to prune, no neuron is read by linear and convolution layers alone")
        for group in self.groups:
            like = model.get_parameter(group.consumers[0].tensor)
            noise = torch.randn(2, group.size, generator=self.generator).to(like) * 0.01
            self.mu[group.name], self.log_variance[group.name] = nn.Parameter(1 + noise[0]), nn.Parameter(noise[1] - 9)
            for member in group.consumers:
                layer = model.get_submodule(member.layer)
                self.hooks.append(layer.register_forward_pre_hook(self._gate(group, member)))
        optimizer.add_param_group({"params": [*self.mu.values(), *self.log_variance.values()]})
        self.hooks.append(model.register_forward_pre_hook(self._draw))

    def _draw(self, model: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        for name, mu in self.mu.items():
            if model.training:
                noise = torch.randn(len(inputs[0]), len(mu), generator=self.generator).to(mu)
                # z = mu + sigma e, for each example
                self.factors[name] = mu + (self.log_variance[name] / 2).exp() * noise
            else:
                self.factors[name] = (mu * self._kept(name))[None]

    def _gate(self, group: Group, member: Member) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor]]:
        def gate(layer: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor]:
            inputs, factor = args[0], self._along(member, self.factors[group.name])
            positions = inputs[0].numel() // len(member.units)
            self.activations.setdefault(group.name, positions * int((member.units >= 0).sum()) // group.size)
            channels_last = isinstance(layer, nn.Linear)
            while factor.dim() < inputs.dim():
                factor = factor.unsqueeze(1 if channels_last else -1)
            # h = z f(x)
            return (inputs * factor,)

        return gate


def callbacks(model: nn.Module, amount: Amount, *, steps: int = 0, generator: torch.Generator | None = None) -> list[Callback]:
    """Train with a bottleneck behind every layer; `fit` returns the narrower network.

    Args:
        model: what will be trained, from scratch or pretrained.
        amount: `Strength(gamma)`, the price of information, in units of the loss.
        steps: not used.
        generator: draws the noise; the default generator if None.

    Raises:
        ValueError: `amount` is no strength, a weight is NaN or infinite, or (in training) nothing can be removed.
    """
    strength = as_amount(amount, Strength).factor
    prunable_weights(model)
    return [Bottleneck(strength, generator)]
