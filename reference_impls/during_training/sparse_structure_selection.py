"""SSS: a scaling factor on each residual branch, pulled to exactly zero while training; the branch then goes (huang2018data).

Idea: multiply the output of every structure by a factor of its own and let an l1 penalty on the factors compete with the loss. With plain
gradient steps a factor would hover around zero; a proximal step, which first follows the gradient and then moves the factor towards
zero by a fixed amount and stops there, makes it zero exactly. Structures with factor zero are not needed: for residual branches the
network loses depth, chosen by the data in the one training run.

Cost: one number and one product per branch in training. At the end the factors that are left melt into the last layer of their branch.

Implementation details, as in the authors' code
1. Factors begin at 1, have no weight decay and learn at the optimizer's learning rate.
2. Their optimizer is an accelerated proximal gradient method rewritten so that it needs the gradient at one point only, the look-ahead
   point, which is the factor that the network uses. Momentum 0.9 by default.
3. A factor that the momentum makes negative is set to 0.
4. Branches whose shortcut is a convolution have a factor, too.

Deviations: structures are residual branches; factors for neurons and groups, which the paper has as well, are left out. A branch is found
by tracing: of two chains of modules that begin at one point and are added, the one with more layers. A branch with a frozen parameter is
left alone. The paper's text was not at hand: what is said of it is from its abstract and the authors' code.
"""

import operator
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from reference_impls.core.amounts import Amount, Strength, as_amount
from reference_impls.core.masks import prunable_weights
from reference_impls.core.structures import LAYERS
from reference_impls.core.training import Callback

UNIT = "block"
GROUP = "network"
AMOUNTS = (Strength,)
NETWORK = "resnet8"
# no exact_count and no shrinks: how many go is what the penalty leads to, and at a small strength none may go
TRAITS: frozenset[str] = frozenset()

SCALABLE = LAYERS | nn.modules.batchnorm._BatchNorm | nn.GroupNorm | nn.LayerNorm  # a factor melts into weight and bias
ADDITIONS = (operator.add, operator.iadd, torch.add, "add", "add_")


@dataclass(frozen=True)
class Branch:
    """The longer way of a residual sum.

    Attributes:
        modules: names of its modules, from the last to the first; the first of them, whose output is added, is scaled.
        layers: how many of them are linear or convolution layers.
    """

    modules: tuple[str, ...]
    layers: int


class Nothing(nn.Module):
    """Zero, whatever comes in: what is left of a branch."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.new_zeros(())


def _way(node: fx.Node, modules: dict[str, nn.Module]) -> tuple[Branch, fx.Node]:
    """The modules from an addition back to where something else branches off, and the point where that is."""
    names: list[str] = []
    while len(node.users) == 1 and len(node.all_input_nodes) == 1:
        if node.op == "call_module":
            names.append(str(node.target))
        node = node.all_input_nodes[0]
    return Branch(tuple(names), sum(isinstance(modules[name], LAYERS) for name in names)), node


def _scalable(branch: Branch, modules: dict[str, nn.Module]) -> bool:
    """Whether nothing in the branch is frozen, and a factor can melt into its last module."""
    parameters = [list(modules[name].parameters()) for name in branch.modules]
    return (
        bool(parameters[0]) and isinstance(modules[branch.modules[0]], SCALABLE) and all(p.requires_grad for own in parameters for p in own)
    )


def branches(model: nn.Module) -> list[Branch]:
    """The residual branches of the model whose parameters may all change, in order.

    Raises:
        ValueError: there is none, or the model cannot be traced.
    """
    modules, found = dict(model.named_modules()), []
    try:
        graph = fx.symbolic_trace(model).graph
    except Exception as error:
        raise ValueError(f"model: cannot be traced, so its residual branches are unknown ({error})") from error
    for node in graph.nodes:
        if node.target in ADDITIONS and len(node.all_input_nodes) == 2:
            (one, start), (other, same) = (_way(source, modules) for source in node.all_input_nodes)
            longer = max(one, other, key=lambda branch: branch.layers)
            last = node.all_input_nodes[0 if longer is one else 1]
            if start is same and longer.layers and last.op == "call_module" and _scalable(longer, modules):
                found.append(longer)
    if not found:
        raise ValueError("model: nothing to prune, it has no residual branch that may change")
    return found


def proximal_step(
    factor: Tensor, gradient: Tensor, velocity: Tensor, learning_rate: float, strength: float, momentum: float
) -> tuple[Tensor, Tensor]:
    """The factors and their velocity after one accelerated proximal step; all of one shape.

    Args:
        factor: lambda, at the look-ahead point, >= 0.
        gradient: of the loss at `factor`.
        velocity: v.
        learning_rate: eta, > 0.
        strength: gamma, of the l1 penalty, >= 0.
        momentum: mu, in [0, 1).
    """
    # z = lambda - eta grad
    moved = factor - learning_rate * gradient
    # S_(eta gamma)(z)
    shrunk = moved.sign() * (moved.abs() - learning_rate * strength).clamp(min=0)
    # v <- S(z) - lambda + mu v
    velocity = shrunk - factor + momentum * velocity
    # lambda <- max(0, S(z) + mu v)
    return (shrunk + momentum * velocity).clamp(min=0), velocity


class Selection(Callback):
    """Scales the branches, shrinks the factors after every step, and takes out what has factor zero.

    Attributes:
        factors: name of a branch's last module -> its factor, a tensor of shape (), from `start` on.
    """

    def __init__(self, strength: float, momentum: float) -> None:
        self.strength, self.momentum = strength, momentum

    def start(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.branches = {branch.modules[0]: branch for branch in branches(model)}
        self.factors, self.velocities, self.hooks = {}, {}, []
        for name in self.branches:
            last = model.get_submodule(name)
            self.factors[name] = torch.ones_like(next(last.parameters()).flatten()[0]).detach().requires_grad_()
            self.velocities[name] = torch.zeros_like(self.factors[name])
            self.hooks.append(last.register_forward_hook(lambda _, args, outputs, name=name: self.factors[name] * outputs))

    def after_step(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        rate = optimizer.param_groups[0]["lr"]
        for name, factor in self.factors.items():
            before = factor.detach()
            moved, self.velocities[name] = proximal_step(
                before, factor.grad, self.velocities[name].detach(), rate, self.strength, self.momentum
            )
            self.factors[name] = moved.requires_grad_()

    @torch.no_grad()
    def finish(self, model: nn.Module) -> nn.Module:
        for hook in self.hooks:
            hook.remove()
        for name, branch in self.branches.items():
            if self.factors[name] > 0:
                for parameter in model.get_submodule(name).parameters():
                    parameter.mul_(self.factors[name])
            else:
                for place in branch.modules[1:]:
                    model.set_submodule(place, nn.Identity())
                model.set_submodule(name, Nothing())
        return model


def callbacks(model: nn.Module, amount: Amount, *, steps: int = 0, momentum: float = 0.9) -> list[Callback]:
    """Train with scaled branches; `fit` returns the network without those whose factor has become zero.

    Args:
        model: with residual sums, traceable by `torch.fx`; trained from scratch.
        amount: `Strength(gamma)`, the factor of the l1 penalty on the scaling factors.
        steps: not used.
        momentum: mu, of the factors' optimizer, in [0, 1).

    Raises:
        ValueError: `amount` is no strength, `momentum` is outside its range, a weight is NaN or infinite, or there is no residual branch.
    """
    strength = as_amount(amount, Strength).factor
    if not 0 <= momentum < 1:
        raise ValueError(f"momentum: {momentum} is not in [0, 1)")
    prunable_weights(model)
    branches(model)
    return [Selection(strength, momentum)]
