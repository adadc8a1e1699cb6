"""DominoSearch: find how many of each m consecutive weights every layer keeps, by pushing weights below thresholds (sun2021dominosearch).

Idea: n:m sparsity runs fast, but one pattern for all layers costs accuracy. Start from a pretrained network with all m of m, and train it
under a penalty that shrinks weights, more in layers that are costly or still far from the share they should lose. Every group of m weights
has a threshold. Once in three quarters of a layer's groups fewer weights are above it than the layer keeps, the layer keeps one less, like
dominoes falling layer by layer, until the network is as sparse as asked. The patterns found are then trained as n:m sparse networks are.

Cost: a search as long as the falling takes (the authors' normally under 30,000 steps), and one training run.

Implementation details (read in a fork of the authors' code that keeps its search; the paper's text was not at hand)
1. A group's threshold is the mean of the smaller half of its |w| in the pretrained network, and stays.
2. The forward pass uses the largest weights of each group, as many as the layer now keeps; only these get a gradient, and the penalty.
3. The number falls by one per check, every 100 steps; a pattern is adopted, and counted, at powers of two only.
4. The penalty, in every fifth step, is factor * decay * w in the gradient. The factor is half the layer's present multiply-accumulates
   as a fraction of the largest layer's, and half the sparsity that Erdos-Renyi-Kernel gives it minus the one it has, as a fraction of
   the largest.
5. The search ends within a check, at the layer whose fall reaches the target. If it takes too long, the decay doubles.

Deviations: m weights lie along the input dimension of one output, where the code cuts the flattened weight; a layer that does not divide
is refused. The decay doubles after each run of `train` that has not reached the target. The final training begins with the weights given
(the source read leaves it open) and is SR-STE, with a pattern per layer. On digits
the small networks tried did no better with the patterns found than with one for all; the paper's gain on ImageNet is not shown here.
"""

import copy

import torch
from torch import Tensor, nn

from reference_impls.core.amounts import NM, Amount, Sparsity, sparsity
from reference_impls.core.densities import erdos_renyi_kernel
from reference_impls.core.masks import apply_masks, keep_n_of_m, prunable_weights
from reference_impls.core.structures import Costs, one_example
from reference_impls.core.training import Batches, Callback, Train, needed
from reference_impls.during_training.sr_ste import SparseRefined

UNIT = "weight"
GROUP = "network"
AMOUNTS = (Sparsity,)
NETWORK = "gpt_small"
QUICK = {"check_every": 1, "penalty_every": 1}  # to see that it runs: a search of a few steps
# no exact_count: patterns come in powers of two; no fixed_mask: while the patterns are trained, pruned weights may return
TRAITS = frozenset[str]()

MAJORITY = 0.75  # of a layer's groups, to let its number fall
RUNS = 8  # of `train` in search of the target


def grouped(weight: Tensor, m: int) -> Tensor:
    """|w| of each m consecutive weights along the input dimension: (groups, m)."""
    return weight.detach().abs().movedim(1, -1).reshape(-1, m)


def thresholds(weight: Tensor, m: int) -> Tensor:
    """T of each group, the mean of the smaller half of its |w|: (groups, 1)."""
    return grouped(weight, m).sort(1).values[:, : m // 2].mean(1, keepdim=True)


def falls(weight: Tensor, threshold: Tensor, kept: int) -> bool:
    """Whether in a majority of a layer's groups fewer weights are above their threshold, (groups, 1), than the number kept."""
    # sum_groups 1[ sum_i 1[|w_i| > T] < N ] >= 3/4 of the groups
    above = (grouped(weight, weight.numel() // len(threshold)) > threshold).sum(1)
    return bool((above < kept).float().mean() >= MAJORITY)


def factors(kept: dict[str, int], m: int, macs: dict[str, float], share: dict[str, float]) -> dict[str, float]:
    """How strongly each layer is pushed, by its N of m kept, its multiply-accumulates when dense, and the sparsity that it should have."""
    cost = {name: macs[name] * n / m for name, n in kept.items()}
    missing = {name: share[name] - (1 - n / m) for name, n in kept.items()}
    highest = max(missing.values())
    scale = 0.0 if highest < 0.01 else 1 / max(abs(value) for value in missing.values())
    # 1/2 FLOPs_l / max FLOPs + 1/2 (s_l - (1 - N_l / M)) / max |...|
    return {name: 0.5 * cost[name] / max(cost.values()) + 0.5 * missing[name] * scale for name in kept}


class Search(Callback):
    """Between steps the model holds the weights in use; all of them are in place only while the optimizer steps.

    Attributes:
        kept: weight name -> N, the pattern adopted.
        falling: weight name -> the number in use now, down to the next N.
        done: whether the target is reached.
    """

    def __init__(self, target: float, m: int, decay: float, macs: dict[str, float], check_every: int, penalty_every: int) -> None:
        self.target, self.m, self.decay, self.macs = target, m, decay, macs
        self.check_every, self.penalty_every, self.step, self.done = check_every, penalty_every, 0, target == 0
        self.kept: dict[str, int] = {}

    def start(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        weights = prunable_weights(model)
        if not self.kept:
            self.kept, self.falling = dict.fromkeys(weights, self.m), dict.fromkeys(weights, self.m)
            self.threshold = {name: thresholds(weight, self.m) for name, weight in weights.items()}
            self.sizes = {name: weight.numel() for name, weight in weights.items()}
            density = erdos_renyi_kernel({name: weight.shape for name, weight in weights.items()}, 1 - self.target)
            self.share = {name: 1 - part for name, part in density.items()}
            self.dense = {name: weight.detach().clone() for name, weight in weights.items()}
        self._show(model)

    def after_backward(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        pushed = factors(self.kept, self.m, self.macs, self.share)
        for name, weight in prunable_weights(model).items():
            gradient = torch.zeros_like(weight) if weight.grad is None else weight.grad
            weight.data.copy_(self.dense[name])
            penalty = self.decay * pushed[name] * self.dense[name] if self.step % self.penalty_every == 0 else 0
            # (dL/dw' + lambda f_l w) M
            weight.grad = (gradient + penalty) * self.masks[name]
        if self.step % self.check_every == 0:
            self._check()
        self.step += 1

    def _check(self) -> None:
        for name, n in self.kept.items():
            if self.done or n == 1:
                continue
            if falls(self.dense[name], self.threshold[name], self.falling[name]):
                self.falling[name] -= 1
            if self.falling[name] & (self.falling[name] - 1) == 0:
                self.kept[name] = self.falling[name]
            self.done = self.sparsity() >= self.target - 1e-9

    def sparsity(self) -> float:
        """Of the patterns adopted, over all layers."""
        return 1 - sum(self.sizes[name] * n for name, n in self.kept.items()) / self.m / sum(self.sizes.values())

    def after_step(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.dense = {name: weight.detach().clone() for name, weight in prunable_weights(model).items()}
        self._show(model)

    def _show(self, model: nn.Module) -> None:
        self.masks = {name: keep_n_of_m(weight.abs(), NM(self.falling[name], self.m), name) for name, weight in self.dense.items()}
        apply_masks(model, self.masks)


class Mixed(SparseRefined):
    """SR-STE with a pattern per layer."""

    def __init__(self, patterns: dict[str, NM], decay: float) -> None:
        super().__init__(next(iter(patterns.values())), decay)
        self.patterns = patterns

    def _make_sparse(self, model: nn.Module) -> None:
        self.dense = {name: weight.detach().clone() for name, weight in prunable_weights(model).items()}
        self.masks = {name: keep_n_of_m(weight.abs(), self.patterns[name], name) for name, weight in self.dense.items()}
        apply_masks(model, self.masks)


def search(
    model: nn.Module, batches: Batches, amount: Amount, train: Train, m: int, decay: float, check_every: int, penalty_every: int
) -> dict[str, NM]:
    """The pattern of each layer, by weight name. Arguments and errors as `prune`."""
    target, weights = sparsity(amount), prunable_weights(model)
    if m < 2 or m & (m - 1):
        raise ValueError(f"m: {m} is no power of two above 1")
    if target > 1 - 1 / m:
        raise ValueError(f"amount: sparsity {target} is more than one of {m} weights can give")
    for name, weight in weights.items():
        keep_n_of_m(weight.detach(), NM(m, m), name)  # refuses a layer that does not divide
    macs = Costs(model, [], one_example(batches)).dense
    found = Search(target, m, decay, {name: macs.get(name.removesuffix(".weight"), 0) for name in weights}, check_every, penalty_every)
    network = copy.deepcopy(model)
    found.start(network, None)
    for _ in range(RUNS):
        if found.done:
            return {name: NM(n, m) for name, n in found.kept.items()}
        network = train(network, [found])
        found.decay *= 2
    raise ValueError(f"amount: sparsity {target} was not reached in {RUNS} runs of train, but {found.sparsity():.3f}; train longer")


def prune(
    model: nn.Module,
    batches: Batches,
    amount: Amount,
    *,
    train: Train | None = None,
    evaluate: object = None,
    m: int = 16,
    decay: float = 0.1,
    check_every: int = 100,
    penalty_every: int = 5,
    refine: float = 2e-4,
) -> nn.Module:
    """The network with a pattern per layer, trained with it.

    Args:
        model: pretrained.
        batches: one example is taken, to count costs.
        amount: the fraction of all linear and convolution weights to prune at least, in [0, 1 - 1 / m].
        train: (model, callbacks) -> model; called until the search is over, and once for the patterns found.
        evaluate: not used.
        m: weights of a group, a power of two.
        decay: lambda of the search, >= 0.
        check_every: steps between checks, >= 1.
        penalty_every: every how many steps the penalty acts, >= 1.
        refine: the decay of SR-STE's pruned weights, >= 0.

    Raises:
        ValueError: an argument is outside its range, a layer's inputs do not divide by m, no batch, no `train`, nothing to prune, or the
            target is not reached.
    """
    for name, value, least in (
        ("decay", decay, 0),
        ("refine", refine, 0),
        ("check_every", check_every, 1),
        ("penalty_every", penalty_every, 1),
    ):
        if not value >= least:
            raise ValueError(f"{name}: {value} is below {least}")
    patterns = search(model, batches, amount, needed(train), m, decay, check_every, penalty_every)
    return needed(train)(copy.deepcopy(model), [Mixed(patterns, refine)])
