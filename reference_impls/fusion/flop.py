"""FLOP: every matrix is a sum of rank-one components, each behind a gate, and training meets a given size (wang2020structured).

Idea: write the weight as W = Q diag(g) P. One gate removes a row of P and a column of Q together, so what is left are two smaller dense
matrices: structured pruning of a factorization, fast without any sparse kernel. The gates are hard concrete and their expected number is
known, so the size of the network is a differentiable number; an augmented Lagrangian, whose multipliers climb while the
size is not met, brings it to the target, and each matrix finds a rank of its own.

Cost: a matrix with r components costs r (inputs + outputs). The factorization begins with about as many parameters as the matrix.

Implementation details, as in the authors' code
1. r = inputs * outputs / (inputs + outputs), rounded down, at the start.
2. Gates with temperature 1, stretched to (-0.1, 1.1), one sample per batch. Without noise a gate is sigmoid(0.8 log alpha).
3. Lagrangian: a (e - t) + 2 b (e - t)^2, where e is the expected fraction gone and t the target, which rises to the asked fraction on a
   line. Adam climbs in a and b, both 0 at first, where everything else descends.

Deviations: P and Q begin as the best approximation of the given weight, by singular values, where the authors' code draws them anew
unless the model already has factors. In the end the components of lowest log alpha in all matrices go until the asked fraction is gone (one
stays in each), where the authors' code rounds each matrix's expected number; with the constraint met both nearly agree. Embeddings,
convolutions and weights that are shared stay whole. The paper's text was not at hand, only its abstract and the authors' code.
"""

import math

import torch
from torch import Tensor, nn

from reference_impls.core.amounts import Amount, Sparsity, sparsity
from reference_impls.core.masks import prunable_weights
from reference_impls.core.training import Callback
from reference_impls.during_training.hard_concrete import probability_open, sample, uniform

UNIT = "dimension"
GROUP = "network"
AMOUNTS = (Sparsity,)
NETWORK = "gpt_small"
# no exact_count: components of different matrices cost differently; no identity_at_zero: the factorization rounds, gates act in training
TRAITS = frozenset({"shrinks"})

TEMPERATURE = 1.0


class Factored(nn.Module):
    """A linear layer as two, with a gate on each component between them.

    Attributes:
        first: P, (components, inputs).
        second: Q, (outputs, components).
        log_alpha: (components,).
    """

    def __init__(self, layer: nn.Linear, log_alpha: float, generator: torch.Generator | None) -> None:
        super().__init__()
        outputs, inputs = layer.weight.shape
        rank = max(1, inputs * outputs // (inputs + outputs))
        u, s, v = torch.linalg.svd(layer.weight.detach(), full_matrices=False)
        # W ~ (U sqrt(S)) (sqrt(S) V^T), the largest singular values
        self.first = nn.Parameter(s[:rank, None].sqrt() * v[:rank])
        self.second = nn.Parameter(u[:, :rank] * s[:rank].sqrt())
        self.log_alpha = nn.Parameter(log_alpha + 0.01 * torch.randn(len(self.first), generator=generator).to(layer.weight))
        self.bias, self.generator = layer.bias, generator
        self.cost = inputs + outputs

    def gates(self) -> Tensor:
        """Without noise: (components,), in (0, 1)."""
        return (0.8 * self.log_alpha).sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        gates = sample(self.log_alpha, uniform(self.log_alpha, self.generator), TEMPERATURE) if self.training else self.gates()
        # y = Q diag(g) P x + b
        return nn.functional.linear(nn.functional.linear(x, self.first) * gates, self.second, self.bias)

    def compressed(self, kept: Tensor) -> nn.Sequential:
        """Two ordinary layers of the kept components (bool), the gates multiplied into the second."""
        inner = int(kept.sum())
        first, second = nn.Linear(self.first.shape[1], inner, bias=False), nn.Linear(inner, len(self.second), bias=self.bias is not None)
        first.weight = nn.Parameter(self.first.detach()[kept])
        second.weight = nn.Parameter((self.second.detach() * self.gates().detach())[:, kept])
        second.bias = self.bias
        return nn.Sequential(first, second)


def factorable(model: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers whose weight and bias may change and belong to them alone, by name.

    Raises:
        ValueError: there is none, or a weight is NaN or infinite.
    """
    weights = set(prunable_weights(model))
    owners = [id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False)]
    found = {}
    for name, layer in model.named_modules():
        own = name and type(layer) is nn.Linear and f"{name}.weight" in weights and owners.count(id(layer.weight)) == 1
        if own and (layer.bias is None or layer.bias.requires_grad):
            found[name] = layer
    if not found:
        raise ValueError("model: nothing to prune, no linear layer has a weight of its own that may change")
    return found


class Compression(Callback):
    """Puts the factored layers in, holds their expected size to the target, and cuts them down in the end.

    Attributes:
        layers: name -> factored layer, from `start` on.
        multipliers: a and b, from `start` on.
    """

    def __init__(self, target: float, steps: int, options: dict[str, float], generator: torch.Generator | None) -> None:
        self.target, self.steps, self.options, self.generator = target, steps, options, generator
        self.step = 0

    def start(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        rate = self.options["dropout_rate"]
        self.layers = {name: Factored(layer, math.log((1 - rate) / rate), self.generator) for name, layer in factorable(model).items()}
        for name, layer in self.layers.items():
            model.set_submodule(name, layer)
        factors = [factor for layer in self.layers.values() for factor in (layer.first, layer.second)]
        optimizer.add_param_group({"params": factors})
        own_rate = {"lr": self.options["gate_rate"]} if self.options["gate_rate"] else {}
        optimizer.add_param_group({"params": [layer.log_alpha for layer in self.layers.values()], **own_rate})
        self.multipliers = factors[0].new_zeros(2).detach().requires_grad_()
        self.climber = torch.optim.Adam([self.multipliers], lr=self.options["climb"], maximize=True)

    def expected_sparsity(self) -> Tensor:
        """e: the fraction of the factors' parameters that is gone, in expectation."""
        left = sum(layer.cost * probability_open(layer.log_alpha, TEMPERATURE).sum() for layer in self.layers.values())
        return 1 - left / sum(layer.cost * len(layer.log_alpha) for layer in self.layers.values())

    def penalty(self, model: nn.Module) -> Tensor:
        warm = self.options["warm_up"] * self.steps
        distance = self.expected_sparsity() - self.target * (min(1.0, self.step / warm) if warm else 1.0)
        self.multipliers.grad = None
        # a (e - t) + 2 b (e - t)^2
        return self.multipliers[0] * distance + 2 * self.multipliers[1] * distance.square()

    def after_step(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.climber.step()
        self.step += 1

    @torch.no_grad()
    def finish(self, model: nn.Module) -> nn.Module:
        for name, kept in self.kept().items():
            model.set_submodule(name, self.layers[name].compressed(kept))
        return model

    def kept(self) -> dict[str, Tensor]:
        """Which components stay: name -> (components,) bool. The lowest log alpha goes first, until the asked fraction is gone."""
        kept = {name: torch.ones_like(layer.log_alpha, dtype=torch.bool) for name, layer in self.layers.items()}
        left = self.target * sum(layer.cost * len(layer.log_alpha) for layer in self.layers.values())
        order = sorted((value, name, place) for name, layer in self.layers.items() for place, value in enumerate(layer.log_alpha.tolist()))
        for _, name, place in order:
            if left > 0 and kept[name].sum() > 1:
                kept[name][place] = False
                left -= self.layers[name].cost
        return kept


def callbacks(
    model: nn.Module,
    amount: Amount,
    *,
    steps: int,
    warm_up: float = 0.5,
    climb: float = 0.01,
    gate_rate: float | None = None,
    dropout_rate: float = 0.5,
    generator: torch.Generator | None = None,
) -> list[Callback]:
    """Train factored, and `fit` returns the network with two thin layers in place of each linear one.

    Args:
        model: with linear layers, trained or not.
        amount: the fraction of the factors' parameters to remove.
        steps: of the whole run, >= 1.
        warm_up: the part of the run in which the target rises, in [0, 1].
        climb: learning rate of the multipliers, > 0; the authors' 1e-4 is made for long runs.
        gate_rate: learning rate of log alpha, > 0; the optimizer's own if None, which is small for gates in a short run.
        dropout_rate: of the gates at the start, in (0, 1).
        generator: draws the gates; the default generator if None.

    Raises:
        ValueError: an argument is outside its range, a weight is NaN or infinite, or there is no linear layer to factor.
    """
    target = sparsity(amount)
    if not 0 <= warm_up <= 1:
        raise ValueError(f"warm_up: {warm_up} is not in [0, 1]")
    if not 0 < climb < math.inf:
        raise ValueError(f"climb: {climb} is not a finite number > 0")
    if gate_rate is not None and not 0 < gate_rate < math.inf:
        raise ValueError(f"gate_rate: {gate_rate} is not a finite number > 0")
    if not 0 < dropout_rate < 1:
        raise ValueError(f"dropout_rate: {dropout_rate} is not in (0, 1)")
    factorable(model)
    return [
        Compression(
            target, steps, {"warm_up": warm_up, "climb": climb, "gate_rate": gate_rate or 0.0, "dropout_rate": dropout_rate}, generator
        )
    ]
