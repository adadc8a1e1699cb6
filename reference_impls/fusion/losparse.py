"""LoSparse: a matrix as a low-rank part that neurons share, plus a sparse part from which whole neurons go (li2023losparse).

Idea: pruning neurons loses what they have in common with others, a low-rank matrix cannot hold what a single neuron has of its own.
So write each matrix as the sum of both: the largest singular values make the first, what they leave makes the second. Both train
on, and from the second the rows go that matter least. What is left of it may be little, as the low-rank part still speaks for
every neuron.

Cost: one singular value decomposition per layer; while it trains, the weights of the low-rank part on top, and one average per
weight of the sparse part. What comes out multiplies by two thin matrices and the rows that stay.

Implementation details (of the authors' code)
1. The low-rank part has `share` times the weights of the matrix: rank ceil(share * H W / (H + W)); each factor gets the square
   roots of the singular values.
2. A neuron's importance is the mean over its row of the averaged |s dL/ds|: plainly over `window` steps, exponentially over windows.
3. One ranking for all layers. After a warm-up the sparsity rises along a cubic curve, a step every `window` steps; then the
   network is pruned after every step. Nothing is held at zero in between: a row may come back until the end.
4. At the end the rows that are gone are not computed.

Deviations: exactly round(sparsity * n) of all neurons go; the authors count weights, so a row counts by its length. They name the
matrices of attention and of the layers after it; here all linear layers but the last are written so, if trainable and not shared.
The importance is that of PLATON without its uncertainty, which is how their recipes set it.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reference_impls.after_training.platon import Confidence
from reference_impls.core.amounts import Amount, Sparsity, sparsity
from reference_impls.core.masks import keep_highest, prunable_weights
from reference_impls.core.schedules import cubic_sparsity
from reference_impls.core.training import Callback

UNIT = "neuron"
GROUP = "network"
AMOUNTS = (Sparsity,)
NETWORK = "vit_small"
QUICK = {"window": 1}  # the tests of all methods train for a few steps only
# identity_at_zero does not hold: the layers are written as sums; exact_count is meant of removed units, here all neurons stay in part
TRAITS = frozenset({"shrinks"})


def low_rank(weight: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """The nearest matrix of low rank, as a product: (H, rank) and (rank, W).

    Args:
        weight: (H, W).
        share: weights of the product over H W, above 0; the rank is at least 1, at most the smaller side.
    """
    height, width = weight.shape
    # r = ceil(share H W / (H + W))
    rank = min(max(math.ceil(round(share * height * width / (height + width), 6)), 1), height, width)
    left, values, right = torch.linalg.svd(weight, full_matrices=False)
    root = values[:rank].sqrt()
    # L = U_r sqrt(S_r), R = sqrt(S_r) V_r^T
    return left[:, :rank] * root, root[:, None] * right[:rank]


class LowRankSparse(nn.Module):
    """y = L (R x) + S x + b, with S kept only in some rows.

    Attributes:
        left, right: (outputs, rank) and (rank, inputs).
        sparse: (rows, inputs).
        rows: which outputs the rows of `sparse` belong to; all of them, in order, until `compress`.
    """

    def __init__(self, layer: nn.Linear, share: float) -> None:
        super().__init__()
        left, right = low_rank(layer.weight.detach(), share)
        self.left, self.right = nn.Parameter(left), nn.Parameter(right)
        # S = W - L R
        self.sparse = nn.Parameter(layer.weight.detach() - left @ right)
        self.bias = layer.bias
        self.register_buffer("rows", torch.arange(len(left), device=left.device))

    def forward(self, inputs: Tensor) -> Tensor:
        outputs = F.linear(F.linear(inputs, self.right), self.left, self.bias)
        return outputs.index_add(-1, self.rows, F.linear(inputs, self.sparse))

    def compress(self, keep: Tensor) -> None:
        """Forget the rows that are not kept: bool, shape (rows,)."""
        self.rows = self.rows[keep]
        self.sparse = nn.Parameter(self.sparse.detach()[keep].clone())


def decomposable(model: nn.Module) -> list[str]:
    """Names of the linear layers that are written as sums: all but the last, if trainable and shared with nothing else."""
    uses: dict[int, int] = {}
    for _, parameter in model.named_parameters(remove_duplicate=False):
        uses[id(parameter)] = uses.get(id(parameter), 0) + 1
    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)][:-1]
    return [name for name, layer in layers if layer.weight.requires_grad and uses[id(layer.weight)] == 1]


class LoSparse(Callback):
    """Writes the layers as sums when training starts, prunes neurons of the sparse parts, and drops them at the end.

    Attributes:
        kept: layer -> bool per neuron, what the last pruning kept.
    """

    def __init__(self, names: list[str], final: float, share: float, begin: int, end: int, window: int, beta: float) -> None:
        self.names, self.final, self.share = names, final, share
        self.begin, self.end, self.window, self.beta = begin, end, window, beta

    def start(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.step = 0
        self.layers = {name: LowRankSparse(model.get_submodule(name), self.share) for name in self.names}
        for name, layer in self.layers.items():
            model.set_submodule(name, layer)
            optimizer.add_param_group({"params": [layer.left, layer.right, layer.sparse]})
        self.importance = {n: Confidence(layer.sparse.detach(), self.window, self.beta, 0.0) for n, layer in self.layers.items()}
        self.kept = {name: torch.ones(len(layer.sparse), dtype=torch.bool) for name, layer in self.layers.items()}

    @torch.no_grad()
    def after_step(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for name, layer in self.layers.items():
            self.importance[name].see(layer.sparse, layer.sparse.grad)
        if self.step >= self.end or (self.step > self.begin and self.step % self.window == 0):
            # of neuron i: 1/W sum_j of the averaged |s_ij dL/ds_ij|
            scores = {name: averages.importance.mean(1) for name, averages in self.importance.items()}
            self.kept = keep_highest(scores, cubic_sparsity(self.step, self.begin, self.end, self.final))
            for name, layer in self.layers.items():
                layer.sparse[~self.kept[name]] = 0
        self.step += 1

    def finish(self, model: nn.Module) -> nn.Module:
        for name, layer in self.layers.items():
            layer.compress(self.kept[name])
        return model


def callbacks(
    model: nn.Module,
    amount: Amount,
    *,
    steps: int,
    share: float = 0.05,
    window: int = 10,
    beta: float = 0.85,
    warmup: int | None = None,
    cooldown: int | None = None,
) -> list[Callback]:
    """Write linear layers as sums and prune while fine-tuning.

    Args:
        model: pretrained.
        amount: the fraction of neurons whose row of the sparse part goes.
        steps: optimizer steps of the whole run.
        share: weights of a low-rank part over those of its matrix, in (0, 1).
        window: steps that are averaged plainly, and between prunings; >= 1.
        beta: of the exponential average, in [0, 1).
        warmup: steps before pruning begins, at least `window`; by default a tenth of the run.
        cooldown: steps at the final sparsity, >= 1; by default half the run.

    Raises:
        ValueError: an argument is outside its range, no step is left for the schedule, or there is nothing to prune.
    """
    final = sparsity(amount)
    prunable_weights(model)
    names = decomposable(model)
    if not names:
        raise ValueError("model: nothing to prune, no trainable linear layer comes before the last one")
    if not 0 < share < 1 or not 0 <= beta < 1 or window < 1:
        raise ValueError(f"share, beta, window: {share}, {beta} and {window} are not in (0, 1), [0, 1) and from 1 on")
    begin = max(steps // 10, window) if warmup is None else warmup
    end = steps - (max(steps // 2, 1) if cooldown is None else cooldown)
    if not window <= begin < end < steps:
        raise ValueError(f"steps: a warm-up of {begin} (at least {window}) and {steps - end} at the end leave none of {steps} to prune in")
    return [LoSparse(names, final, share, begin, end, window, beta)]
