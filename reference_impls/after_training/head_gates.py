"""Pruning attention heads by L0 gates: a trained transformer keeps training with a random gate on every head (voita2019analyzing).

Idea: attention mixes the outputs of its heads by one linear layer. Multiply each head's output by a gate and let the gates pay for being
open, by the probability that they are not zero, while the trained network goes on training. Hard concrete gates reach zero and one
exactly, so at the end heads are either there or not, and it shows which ones the network can do without.

Cost: one number per head, and one product per head's output in training. What comes out has fewer heads and nothing else.

Implementation details, as in the authors' code
1. A gate does not depend on the input: one sample for the whole batch.
2. Temperature 0.33, stretched to (-0.1, 1.1); the penalty is the strength times the sum of the probabilities to be open.
3. Without noise a gate is the stretched and clipped sigmoid of log alpha.

Deviations: the gate is multiplied into the mixing layer's columns in the end, and heads with gate zero go for real; one head of each layer
always stays. log alpha begins at 0; where the authors' begins was not read. With grouped queries a gate is shared by all heads
of one key and value. The network's other parameters train as the optimizer has it.
"""

import torch
from torch import Tensor, nn

from reference_impls.core.amounts import Amount, Strength, as_amount
from reference_impls.core.groups import Group, Member
from reference_impls.core.masks import prunable_weights
from reference_impls.core.structures import removable_groups
from reference_impls.core.surgery import remove
from reference_impls.core.training import Callback
from reference_impls.during_training.hard_concrete import expected_gate, probability_open, sample, uniform

UNIT = "head"
GROUP = "network"
AMOUNTS = (Strength,)
NETWORK = "vit_small"
# no exact_count and no shrinks: how many go is what the penalty leads to, and at a small strength none may go
TRAITS: frozenset[str] = frozenset()

TEMPERATURE = 0.33


def head_groups(model: nn.Module, example: Tensor) -> list[Group]:
    """The groups of attention heads whose outputs one linear layer mixes.

    Raises:
        ValueError: there is none, or a weight is NaN or infinite.
    """
    found = []
    for group in removable_groups(model, example):
        mixers = [model.get_submodule(member.layer) for member in group.consumers]
        if group.attributes and len(mixers) == 1 and isinstance(mixers[0], nn.Linear) and group.consumers[0].dim == 1:
            found.append(group)
    if not found:
        raise ValueError("model: nothing to prune, no attention head can be removed")
    return found


def columns(member: Member, gates: Tensor) -> Tensor:
    """Each head's gate at all inputs of the mixing layer that are its own: (inputs,)."""
    return gates[member.units.to(gates.device)]


class HeadGates(Callback):
    """Gates what the mixing layers read, and in the end removes the heads whose gates are closed.

    Attributes:
        log_alpha: group name -> parameter, one number per head; there once the first batch has been seen.
    """

    def __init__(self, strength: float, learning_rate: float | None, generator: torch.Generator | None) -> None:
        self.strength, self.generator = strength, generator
        self.options = {} if learning_rate is None else {"lr": learning_rate}

    def start(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.log_alpha, self.gates = {}, {}

        def first(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            self.hooks.pop(0).remove()
            self._insert(model, optimizer, inputs[0])
            self._draw(model, inputs)

        self.hooks = [model.register_forward_pre_hook(first)]

    def penalty(self, model: nn.Module) -> Tensor:
        # lambda sum_heads (1 - Q(0 | phi_head))
        return self.strength * sum(probability_open(log_alpha, TEMPERATURE).sum() for log_alpha in self.log_alpha.values())

    @torch.no_grad()
    def finish(self, model: nn.Module) -> nn.Module:
        for hook in self.hooks:
            hook.remove()
        kept = {}
        for group in self.groups:
            (member,), gates = group.consumers, self._closed(group.name)
            model.get_parameter(member.tensor).mul_(columns(member, gates))
            kept[group.name] = gates > 0
        return remove(model, self.groups, kept)

    def _closed(self, name: str) -> Tensor:
        """The gates without noise; the one with the highest log alpha never closes."""
        log_alpha = self.log_alpha[name].detach()
        gates = expected_gate(log_alpha)
        return gates if gates.any() else (torch.arange(len(gates), device=gates.device) == log_alpha.argmax()).to(gates)

    def _insert(self, model: nn.Module, optimizer: torch.optim.Optimizer, inputs: Tensor) -> None:
        self.groups = head_groups(model, inputs[:1])
        for group in self.groups:
            (member,) = group.consumers
            self.log_alpha[group.name] = nn.Parameter(model.get_parameter(member.tensor).new_zeros(group.size))
            self.hooks.append(
                model.get_submodule(member.layer).register_forward_pre_hook(
                    # head_i <- g_i head_i
                    lambda _, args, name=group.name, member=member: (args[0] * columns(member, self.gates[name]),)
                )
            )
        optimizer.add_param_group({"params": list(self.log_alpha.values()), **self.options})
        self.hooks.append(model.register_forward_pre_hook(self._draw))

    def _draw(self, model: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        for name, log_alpha in self.log_alpha.items():
            if model.training:
                self.gates[name] = sample(log_alpha, uniform(log_alpha, self.generator), TEMPERATURE)
            else:
                self.gates[name] = self._closed(name)


def callbacks(
    model: nn.Module,
    amount: Amount,
    *,
    steps: int = 0,
    learning_rate: float | None = None,
    generator: torch.Generator | None = None,
) -> list[Callback]:
    """Continue training with these, and `fit` returns the network with fewer heads.

    Args:
        model: a trained transformer.
        amount: `Strength(lambda)`, the price of one head in units of the loss.
        steps: not used.
        learning_rate: of log alpha, > 0; the optimizer's own if None, which is small for gates in a short training.
        generator: draws the gates; the default generator if None.

    Raises:
        ValueError: `amount` is no strength, `learning_rate` is outside its range, a weight is NaN or infinite, or (in training) there is no
            head to remove.
    """
    strength = as_amount(amount, Strength).factor
    if learning_rate is not None and not 0 < learning_rate < float("inf"):
        raise ValueError(f"learning_rate: {learning_rate} is not a finite number > 0")
    prunable_weights(model)
    return [HeadGates(strength, learning_rate, generator)]
