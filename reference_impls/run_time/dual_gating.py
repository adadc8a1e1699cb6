"""Dual gating: two gates in every residual block, one for the places of the image that matter, one for the channels (li2021dynamic).

Idea: what an input does not need lies in two dimensions: parts of the image show nothing, and some features do not occur in it.
In front of each block a spatial gate decides, tile by tile, where the block is computed, and a channel gate decides which of
its inner channels are. Outside the open tiles the shortcut alone passes. Both train with noise on their scores (Gumbel's, for two
choices) and with the gradient of the soft gate; a penalty draws the whole computation to a target.

Cost: a 3 x 3 convolution to one channel on the pooled tiles, and two small matrix products on the channels' means, per block.

Implementation details (as in copies of the authors' code in other repositories; the original was not at hand)
1. The first convolution computes the open channels at the open tiles, the second one reads the open channels and computes all its
   channels at the open tiles. In training the first one is gated by channel only.
2. Scores get logistic noise in training, and the soft gate has temperature 2/3; a gate is open from a score of 0 on.
3. The penalty is lambda (C / C_dense - d)^2 for the computation C of the network, gates included, as a mean over the batch.
4. Bounds keep both dimensions at work: the open fraction of each gate must not fall below p sqrt(d) nor rise above
   1 - p (1 - sqrt(d)); squared excess, mean over blocks, both gates added. p falls from 1 by exp(-0.02 epochs), so bounds go.

Deviations: p falls with the batches seen, since a network does not know its epochs, so its rate is an argument. The gates' tiles
have one size for all blocks, where the code takes larger ones in early layers; lambda = 5 and gamma = 1 are those of a copy's example.
"""

import copy
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reference_impls.core.amounts import Amount, Sparsity, sparsity
from reference_impls.core.masks import prunable_weights
from reference_impls.core.per_input import dense, macs_per_example, straight_through

UNIT = "channel"
GROUP = "network"
AMOUNTS = (Sparsity,)
NETWORK = "resnet8"
# identity_at_zero does not hold: gates stand and train at any target; weights_only does not hold: what is computed depends on each input;
# no shrinks: all channels stay, for the inputs that need them; exact_count is meant of what stands in the saved network: all of it
TRAITS: frozenset[str] = frozenset()

TEMPERATURE = 2 / 3
PARTS = ("conv1", "bn1", "conv2", "bn2", "shortcut")


def gate(scores: Tensor, training: bool) -> Tensor:
    """1 where the score opens, else 0; in training after noise, and with the gradient of the soft gate."""
    if not training:
        return (scores >= 0).to(scores)
    uniform = torch.rand_like(scores).clamp(1e-6, 1 - 1e-6)
    # g = sigmoid((a + log u - log(1 - u)) / tau), u ~ U(0, 1)
    soft = ((scores + uniform.logit()) / TEMPERATURE).sigmoid()
    return straight_through((soft >= 0.5).to(soft), soft)


class DualGatedBlock(nn.Module):
    """A residual block of two convolutions that computes open channels at open tiles; its layers keep their names."""

    def __init__(self, block: nn.Module, tile: int) -> None:
        super().__init__()
        self.tile = tile
        for part in PARTS:
            setattr(self, part, getattr(block, part))
        inward, outward = block.conv1.in_channels, block.conv1.out_channels
        inner = max(inward // 4, 1)
        self.spatial_scores = nn.Conv2d(inward, 1, 3, padding=1, bias=False)
        self.channel_scores = nn.Sequential(
            nn.Conv2d(inward, inner, 1, bias=False), nn.BatchNorm2d(inner), nn.ReLU(), nn.Conv2d(inner, outward, 1, bias=False)
        )
        self.open: tuple[Tensor, Tensor] | None = None  # fractions of tiles and of channels in the last batch, (examples,) both

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "open": None}  # it hangs on a graph, which cannot be copied

    def gates(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Which tiles and which channels are open: (examples, 1, tiles, tiles) and (examples, channels, 1, 1)."""
        stride = self.conv1.stride[0]
        tiles = [math.ceil(math.ceil(size / stride) / self.tile) for size in inputs.shape[2:]]
        tiles_open = gate(self.spatial_scores(F.adaptive_avg_pool2d(inputs, tiles)), self.training)
        return tiles_open, gate(self.channel_scores(inputs.mean((2, 3), keepdim=True)), self.training)

    def forward(self, inputs: Tensor) -> Tensor:
        tiles, channels = self.gates(inputs)
        hidden = F.relu(self.bn1(self.conv1(inputs)))
        places = F.interpolate(tiles, hidden.shape[2:], mode="nearest")
        self.open = places.mean((1, 2, 3)), channels.mean((1, 2, 3))
        # y = x + s (W_2 * (c s (W_1 * x)))
        hidden = hidden * channels if self.training else hidden * channels * places
        return F.relu(self.bn2(self.conv2(hidden)) * places + self.shortcut(inputs))


class DualGating(nn.Module):
    """A residual network that computes, for each input, the channels and the tiles that its gates open."""

    def __init__(self, network: nn.Module, density: float, strength: float, bound: float, annealing: float) -> None:
        super().__init__()
        self.network, self.density = network, density
        self.strength, self.bound, self.annealing = strength, bound, annealing
        self.register_buffer("batches", torch.zeros((), dtype=torch.long))
        self.counts: dict[torch.Size, tuple[int, list[int], int]] = {}  # what `dense_macs` says of an image's shape
        self.shape = torch.Size()

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training:
            self.batches += 1
            self.shape = inputs.shape[1:]
            if self.shape not in self.counts:
                self.counts[self.shape] = self.dense_macs(inputs[:1])
        return self.network(inputs)

    def gated(self) -> list[DualGatedBlock]:
        """The gated blocks, in the network's order."""
        return [module for module in self.network.modules() if isinstance(module, DualGatedBlock)]

    def tightness(self) -> float:
        """p, how tight the bounds are: 1 at first, then ever less."""
        # p = exp(-rate t)
        return math.exp(-self.annealing * int(self.batches))

    def bounds(self) -> Tensor:
        """The squared excess of the open fractions over their bounds, of the last training batch."""
        p, target = self.tightness(), self.density**0.5
        total = 0.0
        for fractions in zip(*(block.open for block in self.gated()), strict=True):  # of tiles, then of channels
            opened = torch.stack([fraction.mean() for fraction in fractions])
            # mean_l (p sqrt(d) - f_l)_+^2 + (f_l - (1 - p (1 - sqrt(d))))_+^2
            total = total + ((p * target - opened).relu().square() + (opened - (1 - p * (1 - target))).relu().square()).mean()
        return total

    def penalty(self) -> Tensor:
        """How far the computation of the last training batch is from its target, and its gates from their bounds."""
        full, bodies, gates = self.counts[self.shape]
        spent = full - sum(bodies) + gates
        for block, body in zip(self.gated(), bodies, strict=True):
            tiles, channels = block.open
            spent = spent + body * (tiles * channels).mean()
        # lambda (C / C_dense - d)^2 + gamma bounds
        return self.strength * (spent / full - self.density) ** 2 + self.bound * self.bounds()

    def dense_macs(self, example: Tensor) -> tuple[int, list[int], int]:
        """Multiply-accumulates of the network without gates, of the two convolutions of each block, and of all gates."""
        bodies = dict.fromkeys(self.gated(), 0)
        owners = {layer: block for block in bodies for layer in (block.conv1, block.conv2)}
        gates = {layer for block in bodies for part in (block.spatial_scores, block.channel_scores) for layer in part.modules()}
        sums = [0, 0]

        def cost(layer: nn.Module, _: Tensor, outputs: Tensor) -> int:
            if layer in owners:
                bodies[owners[layer]] += dense(layer, outputs)
            sums[layer in gates] += dense(layer, outputs)
            return 0

        macs_per_example(self, example, cost)
        return sums[False], list(bodies.values()), sums[True]

    def macs(self, inputs: Tensor) -> Tensor:
        """Multiply-accumulates of convolutions, linear layers and gates that each example needs: (examples,)."""
        macs_per_example(self, inputs, lambda *_: 0)  # opens the gates for these inputs
        kept = [block.open for block in self.gated()]
        full, bodies, gates = self.dense_macs(inputs[:1])
        gated = sum(body * (tiles * channels).double() for (tiles, channels), body in zip(kept, bodies, strict=True))
        return (full - sum(bodies) + gates + gated.cpu()).round().long()


def wrap(
    model: nn.Module,
    amount: Amount,
    *,
    tile: int = 2,
    strength: float = 5.0,
    bound: float = 1.0,
    annealing: float = 1e-3,
    generator: torch.Generator | None = None,
) -> DualGating:
    """A copy of the model with two gates in every residual block of two convolutions; train it afterwards.

    Args:
        model: residual blocks are its modules with `conv1`, `bn1`, `conv2`, `bn2` and `shortcut`.
        amount: the fraction of the network's multiply-accumulates to save, as a mean over inputs; 1 - amount is d.
        tile: side of a spatial gate's tiles, in places of the block's output.
        strength: lambda. bound: gamma. annealing: how fast the bounds go, per batch.
        generator: draws the gates' first weights.

    Raises:
        ValueError: `amount` is no sparsity, `tile` is below 1, a weight is NaN or infinite, or the model has no such block.
    """
    density = 1 - sparsity(amount)
    if tile < 1:
        raise ValueError(f"tile: {tile} is below 1")
    weight = next(iter(prunable_weights(model).values()))
    network = copy.deepcopy(model)
    names = [name for name, module in network.named_modules() if all(hasattr(module, part) for part in PARTS)]
    if not names:
        raise ValueError(f"model: no residual block with {', '.join(PARTS)}")
    for name in names:
        block = DualGatedBlock(network.get_submodule(name), tile).to(weight)
        for scores in (block.spatial_scores, block.channel_scores[0], block.channel_scores[3]):
            nn.init.kaiming_normal_(scores.weight, generator=generator)
        network.set_submodule(name, block)
    return DualGating(network, density, strength, bound, annealing).train(model.training)
