"""Deep Compression: prune, share weights by a trained codebook, code what is left by Huffman (han2016deep, sections 2 to 4).

Idea: three stages that each keep the accuracy and multiply their savings. Small weights go; the others fall into a few
clusters per layer that share one value, which is then fine-tuned; cluster numbers and positions are coded so that
frequent ones are short.

Cost: the retraining of the pruning, one k-means per layer and one more training run; coding is a sort of the symbols.

Implementation details
1. Centroids start evenly spaced between a layer's smallest and largest weight (linear initialization): large weights are
   few and matter, and a start by density would give them no centroid of their own.
2. A centroid's gradient is the sum of its weights' gradients. All weights of a cluster start equal and get the same
   gradient, so any optimizer that treats weights alike keeps them equal. A sum over a thousand weights makes large steps:
   train at a low learning rate.
3. A position is stored as the distance from the one before. What exceeds the largest distance gets a filler: a zero
   weight, the codebook's entry 0. So `bits` per weight leave 2^bits - 1 centroids, as in the authors' decoder.
4. The count of bits holds both coded streams, the codebook at 32 bits an entry, and the code tables at 8 bits a length
   (a canonical code is known by its lengths).

Deviations: the same `bits` for all layers by default, where the paper takes 8 for convolutions and 5 for others; biases
and norms are neither pruned nor counted.
"""

import heapq
import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from reference_impls.after_training.magnitude_retraining import prune as prune_connections
from reference_impls.core.amounts import Amount, Sparsity, sparsity
from reference_impls.core.masks import prunable_weights
from reference_impls.core.training import Batches, Callback, HoldMasks, Train, needed

UNIT = "weight"
GROUP = "network"
AMOUNTS = (Sparsity,)
NETWORK = "lenet_300_100"
TRAITS = frozenset({"exact_count", "fixed_mask"})  # at sparsity 0 it still shares weights; training moves them: not idempotent


def cluster(weights: Tensor, centroids: int, rounds: int = 100) -> tuple[Tensor, Tensor]:
    """k-means of the weights of one layer, from evenly spaced centroids.

    Args:
        weights: (n,), n >= 1.
        centroids: how many, >= 1.
        rounds: the most passes; it stops as soon as no weight changes its cluster.

    Returns:
        The centroids in rising order, and each weight's number among them.
    """
    values = torch.linspace(float(weights.min()), float(weights.max()), centroids, dtype=weights.dtype, device=weights.device)
    assigned = torch.full_like(weights, -1, dtype=torch.long)
    for _ in range(rounds):
        # the nearest of sorted centroids changes half way between two neighbours
        nearest = torch.bucketize(weights, (values[1:] + values[:-1]) / 2)
        if torch.equal(nearest, assigned):
            break
        assigned = nearest
        size = torch.bincount(assigned, minlength=centroids)
        sums = torch.zeros_like(values).index_add_(0, assigned, weights)
        values = torch.where(size > 0, sums / size.clamp(min=1), values)
    return values, assigned


class ShareWeights(Callback):
    """Weights of a cluster share a value, and it learns by the sum of their gradients.

    Args:
        clusters: parameter name -> (centroids, each weight's number or -1 for a pruned one, shaped as the weight).
    """

    def __init__(self, clusters: dict[str, tuple[Tensor, Tensor]]) -> None:
        self.clusters = clusters

    @torch.no_grad()
    def start(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for name, (values, assigned) in self.clusters.items():
            model.get_parameter(name).copy_(torch.where(assigned >= 0, values[assigned.clamp(min=0)], 0))

    def after_backward(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for name, (values, assigned) in self.clusters.items():
            gradient = model.get_parameter(name).grad
            if gradient is not None:
                shared = assigned >= 0
                # dL/dC_k = sum over the weights in cluster k of dL/dW_ij
                sums = torch.zeros_like(values).index_add_(0, assigned[shared], gradient[shared])
                gradient.copy_(torch.where(shared, sums[assigned.clamp(min=0)], 0))


def prune(
    model: nn.Module,
    batches: Batches,
    amount: Amount,
    *,
    train: Train | None = None,
    evaluate: object = None,
    rounds: int = 3,
    bits: int = 5,
) -> nn.Module:
    """The model pruned, retrained, and with at most 2^bits - 1 different weights in each layer; `encode` gives its size.

    Args:
        model: trained.
        batches: not used; the data is in `train`.
        amount: fraction of all linear and convolution weights to prune.
        train: (model, callbacks) -> model; called after each round of pruning and once for the codebooks.
        evaluate: not used.
        rounds: of pruning, >= 1.
        bits: per weight, 1 to 16.

    Raises:
        ValueError: `amount`, `rounds` or `bits` out of range, or no `train`.
    """
    sparsity(amount)
    if not 1 <= bits <= 16:
        raise ValueError(f"bits: {bits} is not in 1..16")
    network = prune_connections(model, batches, amount, train=train, rounds=rounds)
    clusters, masks = {}, {}
    for name, weight in prunable_weights(network).items():
        weight, masks[name] = weight.detach(), weight.detach() != 0
        assigned = torch.full_like(weight, -1, dtype=torch.long)
        if masks[name].any():
            values, assigned[masks[name]] = cluster(weight[masks[name]], 2**bits - 1)
            clusters[name] = values, assigned
    return needed(train)(network, [ShareWeights(clusters), HoldMasks(masks)])


def huffman(symbols: Sequence[int]) -> dict[int, str]:
    """The shortest prefix code of the symbols: symbol -> its bits as a string of 0 and 1; a single symbol takes one bit."""
    tie = itertools.count()  # so that equal frequencies never compare their tables
    heap = [(count, next(tie), {symbol: ""}) for symbol, count in sorted(Counter(symbols).items())]
    heapq.heapify(heap)
    if len(heap) == 1:
        return dict.fromkeys(heap[0][2], "0")
    while len(heap) > 1:
        # the two rarest share a node; one goes left, one right
        (low, _, left), (high, _, right) = heapq.heappop(heap), heapq.heappop(heap)
        merged = {symbol: "0" + code for symbol, code in left.items()} | {symbol: "1" + code for symbol, code in right.items()}
        heapq.heappush(heap, (low + high, next(tie), merged))
    return heap[0][2] if heap else {}


@dataclass(frozen=True)
class Coded:
    """A weight as Deep Compression stores it."""

    shape: torch.Size
    codebook: Tensor  # (entries,); entry 0 is zero, for fillers
    weight_code: dict[int, str]
    gap_code: dict[int, str]
    weights: str  # bits
    gaps: str  # bits

    @property
    def bits(self) -> int:
        """Everything that is stored: both streams, 32 bits per codebook entry but the zero, 8 per code length."""
        return len(self.weights) + len(self.gaps) + 32 * (len(self.codebook) - 1) + 8 * (len(self.weight_code) + len(self.gap_code))


def relative_positions(positions: list[int], largest: int) -> list[tuple[int, bool]]:
    """(zeros skipped, is a weight) for each stored entry, at most `largest` skipped; a filler lies on a zero."""
    entries, before = [], -1
    for position in positions:
        skipped = position - before - 1
        fillers, left = divmod(skipped, largest + 1)
        entries += [(largest, False)] * fillers + [(left, True)]
        before = position
    return entries


def encode(weight: Tensor, gap_bits: int = 5) -> Coded:
    """The weight as codebook, coded cluster numbers and coded distances.

    Args:
        weight: with few different values, as `prune` leaves it.
        gap_bits: 2^gap_bits - 1 zeros can be skipped at once; the paper has 5 for linear layers, 8 for convolutions.
    """
    flat = weight.detach().flatten()
    positions = flat.nonzero().flatten()
    values, numbers = flat[positions].unique(return_inverse=True)
    entries, number = relative_positions(positions.tolist(), 2**gap_bits - 1), iter((numbers + 1).tolist())
    indices, gaps = [next(number) if real else 0 for _, real in entries], [gap for gap, _ in entries]
    weight_code, gap_code = huffman(indices), huffman(gaps)
    return Coded(
        shape=weight.shape,
        codebook=torch.cat([values.new_zeros(1), values]),
        weight_code=weight_code,
        gap_code=gap_code,
        weights="".join(map(weight_code.__getitem__, indices)),
        gaps="".join(map(gap_code.__getitem__, gaps)),
    )


def decode(coded: Coded) -> Tensor:
    """The weight that was encoded, bit for bit."""
    indices, gaps = _symbols(coded.weights, coded.weight_code), _symbols(coded.gaps, coded.gap_code)
    flat = coded.codebook.new_zeros(coded.shape.numel())
    positions = (torch.tensor(gaps, dtype=torch.long, device=flat.device) + 1).cumsum(0) - 1
    flat[positions] = coded.codebook[torch.tensor(indices, dtype=torch.long, device=flat.device)]
    return flat.view(coded.shape)


def _symbols(stream: str, code: dict[int, str]) -> list[int]:
    symbol_of, found, prefix = {bits: symbol for symbol, bits in code.items()}, [], ""
    for bit in stream:
        prefix += bit
        if prefix in symbol_of:
            found.append(symbol_of[prefix])
            prefix = ""
    return found
