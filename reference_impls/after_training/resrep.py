"""ResRep: compactors behind the convolutions learn to forget channels, the rest keeps remembering; both merge in the end (ding2021resrep).

Idea: a penalty strong enough to make zeros harms what the network must remember, a weak one makes none. So split the two. Behind each
convolution and its normalization stands a compactor, a square matrix over channels, at first the identity. The network itself trains as
usual. On the compactors alone lies a group lasso over their rows, and the rows chosen to go no longer feel the loss at all: nothing resists
their penalty, and they reach zero. Convolution, normalization and compactor are linear, one behind the other, so they merge into one
narrower convolution with a bias, and nothing is lost.

Cost: one small matrix per convolution while training; four passes of a single example to follow the channels; nothing afterwards.

Implementation details
1. A compactor's gradient is the loss's, set to zero in the chosen rows, plus the strength times each row over its norm, in all rows.
2. The chosen rows are those of smallest norm over all compactors, as few as the target needs, and are chosen anew each time: a row may
   come back. Their number is limited at first, and the limit grows. One row of each compactor always stays.
3. Compactors have momentum 0.99 and no weight decay, as in the authors' code, which uses a strength of 1e-4.
4. Only channels that a single convolution makes get a compactor: those inside residual blocks, not those that a shortcut adds.

Deviations: the code begins to choose after 5 of 180 epochs and lets four more rows go every 200 steps; here it begins after a tenth of the
run, chooses fifty times in all, and lets all go that are needed at half of the run. The code removes rows whose norm fell below 1e-5; here
exactly the rows chosen last go, so too short a run or too small a strength costs accuracy. The paper was read through its abstract and its
code, not in full.
"""

import bisect
import copy
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from reference_impls.core.amounts import Amount, Budget, Sparsity, as_amount
from reference_impls.core.masks import keep_units, prunable_weights
from reference_impls.core.structures import Costs, removable_groups, weights_among
from reference_impls.core.surgery import remove
from reference_impls.core.training import Callback, evaluating

UNIT = "channel"
GROUP = "network"
AMOUNTS = (Sparsity, Budget)
NETWORK = "resnet8"
# exact_count does not hold over all channels: those that a shortcut adds are never pruned, and are not counted
# identity_at_zero does not hold: the penalty acts on training even if no channel goes, and normalizations are merged
# fixed_mask does not hold: nothing is masked, the channels are gone
TRAITS = frozenset({"shrinks"})

CONVOLUTIONS = nn.Conv1d | nn.Conv2d | nn.Conv3d
NORMS = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d


class Compactor(nn.Module):
    """A linear map over the channels, dimension 1; the identity at first. Row j of its `weight`, Q, makes channel j."""

    def __init__(self, like: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(len(like), dtype=like.dtype, device=like.device))

    def forward(self, x: Tensor) -> Tensor:
        return (x.movedim(1, -1) @ self.weight.T).movedim(-1, 1)


@dataclass(frozen=True)
class Site:
    """A convolution, and the normalization right behind it ("" = none); a compactor stands behind the last of them."""

    convolution: str
    norm: str

    @property
    def last(self) -> str:
        return self.norm or self.convolution


def sites(model: nn.Module, example: Tensor) -> list[Site]:
    """Where compactors belong: convolutions that make their channels alone, with nothing but a normalization of their own behind them.

    Raises:
        ValueError: there is none.
    """
    names = {module: name for name, module in model.named_modules() if isinstance(module, CONVOLUTIONS | NORMS)}
    made: list[tuple[str, Tensor]] = []
    norms: dict[str, str] = {}

    def leave(layer: nn.Module, _: tuple[Tensor, ...], outputs: Tensor) -> None:
        made.append((names[layer], outputs))

    def enter(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        norms.update({name: names[layer] for name, outputs in made if outputs is inputs[0]})

    hooks = [
        layer.register_forward_hook(leave) if isinstance(layer, CONVOLUTIONS) else layer.register_forward_pre_hook(enter) for layer in names
    ]
    try:
        with torch.no_grad(), evaluating(model):
            model(example)
    finally:
        for hook in hooks:
            hook.remove()
    found = []
    for group in removable_groups(model, example):
        weights = weights_among(model, group.producers)
        layer = weights[0][0].layer if weights else ""
        if layer in dict(made) and {member.layer for member in group.producers} <= {layer, norms.get(layer)}:
            found.append(Site(layer, norms.get(layer, "")))
    if not found:
        raise ValueError("model: nothing to prune, no convolution makes channels of its own that can be removed")
    return found


def compactor_gradient(gradient: Tensor, weight: Tensor, kept: Tensor, strength: float) -> Tensor:
    """What a compactor descends along: the loss's gradient in the kept rows, and the penalty's in all rows.

    Args:
        gradient: of the loss, dL/dQ, shape (channels, channels).
        weight: Q, of the same shape.
        kept: m, bool, shape (channels,).
        strength: lambda.
    """
    norm = weight.norm(dim=1, keepdim=True)
    # G(Q) = m dL/dQ + lambda Q / |Q|, row by row
    return gradient * kept[:, None] + strength * torch.where(norm > 0, weight / norm, 0)


def merge(model: nn.Module, places: list[Site]) -> nn.Module:
    """A copy of the network with each convolution, normalization and compactor merged into one convolution with a bias."""
    merged = copy.deepcopy(model).eval()
    for site in places:
        before, compactor = merged.get_submodule(site.last)
        convolution = fuse_conv_bn_eval(merged.get_submodule(site.convolution), before) if site.norm else before
        weight, bias = convolution.weight.data, convolution.bias
        # K' = Q K,  b' = Q b
        convolution.weight = nn.Parameter(torch.einsum("oi,i...->o...", compactor.weight.data, weight))
        convolution.bias = nn.Parameter(compactor.weight.data @ (weight.new_zeros(len(weight)) if bias is None else bias.data))
        merged.set_submodule(site.last, nn.Identity())
        merged.set_submodule(site.convolution, convolution)
    return merged


class ResRep(Callback):
    """Puts compactors in, teaches them to forget, merges them and removes the channels that they no longer make.

    Attributes:
        kept: convolution -> bool per channel, False = chosen to go; empty until the first choice.
    """

    def __init__(self, asked: Sparsity | Budget, strength: float, momentum: float, steps: int) -> None:
        self.asked, self.strength, self.momentum, self.steps, self.step = asked, strength, momentum, steps, 0
        self.sites: list[Site] = []
        self.kept: dict[str, Tensor] = {}

    def start(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        def insert(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:  # before the first forward pass, when an image is there
            hook.remove()
            self.example = inputs[0][:1].detach().clone()
            self.sites = sites(model, self.example)
            self.costs = Costs(model, removable_groups(model, self.example), self.example)
            for site in self.sites:
                compactor = Compactor(model.get_submodule(site.convolution).weight)
                model.set_submodule(site.last, nn.Sequential(model.get_submodule(site.last), compactor))
                optimizer.add_param_group({"params": [compactor.weight], "momentum": self.momentum, "weight_decay": 0.0})
            self.compactors = {site.convolution: model.get_submodule(site.last)[1].weight for site in self.sites}
            self.choose(1.0)  # an amount that cannot be reached is noticed at once
            self.kept = {name: torch.ones_like(kept) for name, kept in self.kept.items()}

        hook = model.register_forward_pre_hook(insert)

    def choose(self, limit: float) -> None:
        """Choose the rows of smallest norm, as few as the target needs and at most the fraction `limit` of all."""
        norms = {name: weight.detach().norm(dim=1) for name, weight in self.compactors.items()}
        count = sum(len(norm) for norm in norms.values())
        needed = round(self.asked.fraction * count) if isinstance(self.asked, Sparsity) else self._least(norms, count)
        self.kept = keep_units(norms, min(needed, int(limit * count)) / count)

    def _least(self, norms: Mapping[str, Tensor], count: int) -> int:
        def within(removed: int) -> bool:
            return self.costs({name: int(kept.sum()) for name, kept in keep_units(norms, removed / count).items()}) <= self.asked.macs

        least = bisect.bisect_left(range(count), True, key=within)
        if least == count:
            raise ValueError(f"amount: {self.asked.macs} macs cannot be reached with one channel in every compactor")
        return least

    def after_backward(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        begin, full, every = self.steps // 10, max(self.steps // 2, 1), max(self.steps // 50, 1)
        if self.step > begin and (self.step - begin) % every == 0:
            self.choose(min((self.step - begin) / max(full - begin, 1), 1.0))
        for name, weight in self.compactors.items():
            weight.grad = compactor_gradient(weight.grad, weight.detach(), self.kept[name], self.strength)
        self.step += 1

    def finish(self, model: nn.Module) -> nn.Module:
        self.choose(1.0)
        merged = merge(model, self.sites)
        return remove(merged, removable_groups(merged, self.example), self.kept)


def callbacks(model: nn.Module, amount: Amount, *, steps: int, strength: float = 1e-4, momentum: float = 0.99) -> list[Callback]:
    """Train a trained network on with these, and `fit` returns it merged and narrower.

    Args:
        model: a trained network; what a convolution makes is read by its normalization alone, if one is right behind it.
        amount: the fraction of the channels with a compactor to remove; or the multiply-accumulates that one example may cost.
        steps: optimizer steps of the whole run, >= 1.
        strength: lambda. What a small network needs in few steps is larger than the default.
        momentum: of the compactors, where the optimizer knows momentum.

    Raises:
        ValueError: `amount` is neither, or cannot be reached; `steps` or `strength` out of range, a NaN weight, or nothing can be removed.
    """
    asked = as_amount(amount, Sparsity, Budget)
    if isinstance(asked, Budget) and asked.macs is None:
        raise ValueError(f"amount: {asked}; this method takes a budget of macs")
    prunable_weights(model)
    if steps < 1 or not strength >= 0:
        raise ValueError(f"steps, strength: {steps} is below 1, or {strength} is not >= 0")
    return [ResRep(asked, strength, momentum, steps)]
