"""Gate Decorator: a gate in every normalization; Tick ranks filters by what closing their gates would cost, Tock recovers (you2019gate).

Idea: batch normalization already scales each channel. Move its scale out as a gate, so that gate zero means no channel: output = gate
times (normalized input + shift / scale). To first order the loss changes by gate times gradient when the gate is closed: the filter's
score, comparable over the whole network. In Tick, with frozen convolutions, gates, shifts and classifiers learn while scores are summed
up; then the lowest go. In Tock everything trains under a penalty on the gates. Tick and Tock take turns, a few filters at a time;
afterwards the gates melt back into ordinary normalizations.

Cost: two short trainings per round; the scores come with the gradients of the first.

Implementation details, as in the authors' code
1. Shift / scale is clipped to [-10, 10], which a scale near zero would make huge.
2. The score is the absolute product of gate and gradient, taken at every step of Tick and summed.
3. Normalizations whose channels a shortcut adds together share their gates' fate: their scores are summed.
4. The penalty in Tock is the sum of all |gate|, times 1e-5 by default; there is none in Tick.

Deviations: filters go for real after each Tick, not by a mask until the end. The authors keep a tenth of every layer; here one filter
stays. Their option to lower the scores of costly filters is left out, and so is the course of the learning rate, `train`'s affair here.
`train` is called for Tick and for Tock alike; a long fine-tuning at the end is the caller's.
"""

import copy

import torch
from torch import Tensor, nn

from reference_impls.core.amounts import Amount, Sparsity, sparsity
from reference_impls.core.groups import Group
from reference_impls.core.masks import Scores, keep_units, prunable_weights
from reference_impls.core.schedules import sparsities_in_rounds
from reference_impls.core.structures import one_example, per_unit, removable_groups
from reference_impls.core.surgery import remove
from reference_impls.core.training import Batches, Callback, Train, needed

UNIT = "filter"
GROUP = "network"
AMOUNTS = (Sparsity,)
NETWORK = "resnet8"
QUICK = {"rounds": 2}
# no identity_at_zero: even with nothing to prune, Tock trains under its penalty, and melting rounds; no idempotent: others would go
TRAITS = frozenset({"exact_count", "shrinks"})

NORMS = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d


class GatedNorm(nn.Module):
    """A batch normalization whose scale stands outside, as a gate over normalized input and shift."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.gate = nn.Parameter(norm.weight.detach().clone())
        self.norm = copy.deepcopy(norm)
        with torch.no_grad():
            # a zero scale has no quotient; its shift is lost with its gate
            self.norm.bias.copy_((norm.bias / norm.weight).nan_to_num(0).clamp(-10, 10))
            self.norm.weight.fill_(1).requires_grad_(False)

    def forward(self, inputs: Tensor) -> Tensor:
        # phi (x_hat + beta / gamma)
        return self.norm(inputs) * self.gate.view(-1, *[1] * (inputs.dim() - 2))

    def melted(self) -> nn.Module:
        """The ordinary normalization that computes the same."""
        norm = copy.deepcopy(self.norm)
        with torch.no_grad():
            norm.weight.copy_(self.gate).requires_grad_(True)
            norm.bias.mul_(self.gate)
        return norm


def decorated(model: nn.Module) -> nn.Module:
    """A copy whose batch normalizations are gated, those without a trainable scale and shift excepted.

    Raises:
        ValueError: there is none.
    """
    network = copy.deepcopy(model)
    found = {name: norm for name, norm in network.named_modules() if isinstance(norm, NORMS) and norm.affine}
    found = {name: norm for name, norm in found.items() if norm.weight.requires_grad and norm.bias.requires_grad}
    if not found:
        raise ValueError("model: nothing to prune by, no batch normalization has a trainable scale and shift")
    for name, norm in found.items():
        network.set_submodule(name, GatedNorm(norm))
    return network


def melted(model: nn.Module) -> nn.Module:
    """A copy whose gates are back in ordinary batch normalizations."""
    network = copy.deepcopy(model)
    for name, gated in gates(network).items():
        network.set_submodule(name, gated.melted())
    return network


def gates(model: nn.Module) -> dict[str, GatedNorm]:
    """The gated normalizations of a decorated model, by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, GatedNorm)}


class Tick(Callback):
    """Keeps convolutions as they are, and sums up the scores of the gates.

    Attributes:
        scores: name of the normalization -> (channels,), >= 0.
    """

    def __init__(self) -> None:
        self.scores: dict[str, Tensor] = {}

    def start(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        layers = [module for module in model.modules() if isinstance(module, nn.modules.conv._ConvNd)]
        self.frozen = [parameter for layer in layers for parameter in layer.parameters() if parameter.requires_grad]
        for parameter in self.frozen:
            parameter.requires_grad_(False)

    def after_backward(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for name, gated in gates(model).items():
            # Theta(phi) += |dL / dphi phi|
            score = (gated.gate.grad * gated.gate).detach().abs()
            self.scores[name] = self.scores.get(name, torch.zeros_like(score)) + score

    def finish(self, model: nn.Module) -> nn.Module:
        for parameter in self.frozen:
            parameter.requires_grad_(True)
        return model


class Tock(Callback):
    """Pulls all gates towards zero while everything trains."""

    def __init__(self, strength: float) -> None:
        self.strength = strength

    def penalty(self, model: nn.Module) -> Tensor:
        # lambda sum_phi |phi|
        return self.strength * sum(gated.gate.abs().sum() for gated in gates(model).values())


def filter_scores(groups: list[Group], scores: Scores) -> Scores:
    """The scores of filters that can go: group name -> (filters,); those of normalizations that share filters are summed.

    Args:
        groups: of the melted network.
        scores: name of a normalization -> (channels,).
    """
    found = {}
    for group in groups:
        own = [member for member in group.producers if member.tensor.endswith(".weight") and member.layer in scores]
        if own:
            found[group.name] = sum(per_unit(member, scores[member.layer], group.size) for member in own)
    return found


def prune(
    model: nn.Module,
    batches: Batches,
    amount: Amount,
    *,
    train: Train | None = None,
    evaluate: object = None,
    rounds: int = 10,
    strength: float = 1e-5,
) -> nn.Module:
    """The network without its filters of lowest score, after the last Tock.

    Args:
        model: trained, with batch normalization.
        batches: one example is taken, to follow the channels.
        amount: the fraction of all gated filters to remove; one of each layer always stays.
        train: (model, callbacks) -> model; a short training, called twice per round.
        evaluate: not used.
        rounds: of Tick and Tock, >= 1; each removes the same fraction of what is left.
        strength: lambda, the factor of the penalty in Tock, >= 0.

    Raises:
        ValueError: `amount`, `rounds` or `strength` out of range, no batch, no `train` or one that makes no step, a NaN or infinite weight,
            or nothing can be removed.
    """
    train, network, total = needed(train), copy.deepcopy(model), 0
    if not 0 <= strength < float("inf"):
        raise ValueError(f"strength: {strength} is not a finite number >= 0")
    prunable_weights(model)
    for reached in sparsities_in_rounds(sparsity(amount), rounds):
        tick = Tick()
        network = melted(train(decorated(network), [tick]))
        if not tick.scores:
            raise ValueError("train: made no step with the callbacks that it was given, so there are no scores")
        groups = removable_groups(network, one_example(batches))
        scores = filter_scores(groups, tick.scores)
        if not scores:
            raise ValueError("model: nothing to prune, no filter with a gate can be removed")
        left = sum(len(score) for score in scores.values())
        total = total or left
        due = round(reached * total) - (total - left)
        network = remove(network, groups, keep_units(scores, Sparsity(min(due, left - len(scores)) / left)))
        network = melted(train(decorated(network), [Tock(strength)]))
    return network
