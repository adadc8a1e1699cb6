"""Polarization: a penalty that drives batch normalization's scales either to zero or up to one common value (zhuang2020neuron).

Idea: an l1 penalty pushes every scale down, the important ones too, and leaves no clear place to cut. Add a second term that rewards
each scale for being far from the mean of all: those below it fall to zero, those above it rise until they meet the bound, and between the
two crowds there is a gap. Cutting in the gap leaves what is kept as it was.

Cost: two sums over the scales per step; in the end one forward pass of a single example, to follow the channels.

Implementation details
1. The mean is over all scales of the network, and its own gradient counts, as in the authors' code.
2. After each step the scales are cut to [0, 1], as in that code: the penalty falls without end in the direction of ever larger scales.
3. Alone, the penalty is smallest where a fraction 1/2 - t/4 of the scales is at the bound and the rest at zero: t sets how many stay.
4. Asked for a strength, the place to cut is found per layer, as in the authors' code: a histogram of 100 bins over [0, 1], and the
   border of the first bin after which counts no longer fall. Asked for a sparsity, the smallest scales of the network go.
5. Where a shortcut adds channels, they go together, and their score is the mean of their scales.

Deviations: the authors' code starts all scales at 0.5; here they start as the model has them. Their residual networks select among the
channels of the stream inside each block; here the stream itself gets narrower. Removing a number that was asked for is a choice made here.
The formula is read from the authors' code; the paper's proof is known here through its abstract.
"""

import torch
from torch import Tensor, nn

from reference_impls.core.amounts import Amount, Sparsity, Strength, as_amount
from reference_impls.core.masks import keep_units, prunable_weights
from reference_impls.core.structures import removable_groups
from reference_impls.core.surgery import remove
from reference_impls.core.training import Callback
from reference_impls.during_training.network_slimming import Slimming, channel_scores, scales

UNIT = "channel"
GROUP = "network"
AMOUNTS = (Sparsity, Strength)
NETWORK = "resnet8"
# identity_at_zero does not hold: the penalty acts on training even if no channel goes
# fixed_mask does not hold: nothing is masked, the channels are gone
TRAITS = frozenset({"exact_count", "shrinks"})

BINS = 100


def polarization(gamma: Tensor, t: float) -> Tensor:
    """The polarization regularizer of all scales of a network, shape (n,): a scalar, smaller the further the scales are apart."""
    # R_s(gamma) = t |gamma|_1 - |gamma - mean(gamma)|_1
    return t * gamma.abs().sum() - (gamma - gamma.mean()).abs().sum()


def valley(gamma: Tensor) -> float:
    """Where the histogram of one layer's scales stops falling for the first time, in [0, 1]; 0 where it never does."""
    counts = torch.histc(gamma.detach().abs(), BINS, 0, 1)
    slope = counts.diff()
    for place in range(BINS - 2):
        if slope[place] <= 0 <= slope[place + 1]:
            return (place + 1) / BINS
    return 0.0


class Polarization(Slimming):
    """Trains under the penalty with scales in [0, 1], then removes the channels of the smallest ones."""

    def __init__(self, asked: Sparsity | Strength, strength: float, t: float) -> None:
        super().__init__(asked.fraction if isinstance(asked, Sparsity) else 0.0, strength)
        self.asked, self.t = asked, t

    def penalty(self, model: nn.Module) -> Tensor:
        return self.strength * polarization(torch.cat([scale.flatten() for scale in scales(model).values()]), self.t)

    @torch.no_grad()
    def after_step(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for scale in scales(model).values():
            scale.clamp_(0, 1)

    def finish(self, model: nn.Module) -> nn.Module:
        if isinstance(self.asked, Sparsity):
            return super().finish(model)
        groups = removable_groups(model, self.example)
        kept: dict[str, Tensor] = {}
        for name, score in channel_scores(model, groups).items():
            small = int((score <= valley(score)).sum())
            kept |= keep_units({name: score}, min(small, len(score) - 1) / len(score))
        return remove(model, groups, kept)


def callbacks(model: nn.Module, amount: Amount, *, steps: int = 0, strength: float = 1e-4, t: float = 1.0) -> list[Callback]:
    """Train with these, and `fit` returns the narrower network.

    Args:
        model: with batch normalization.
        amount: a sparsity, the fraction of all channels of the network to remove; or a strength, which replaces `strength`, and then the
            channels below each layer's gap go. One channel of each layer always stays.
        steps: not used.
        strength: lambda, the factor of the penalty. What a small network needs in few steps is larger than the default.
        t: weight of the l1 term; the larger, the more scales go to zero.

    Raises:
        ValueError: `amount` is neither, a weight is NaN or infinite, or the model has no batch normalization to train.
    """
    asked = as_amount(amount, Sparsity, Strength)
    prunable_weights(model)
    scales(model)
    return [Polarization(asked, asked.factor if isinstance(asked, Strength) else strength, t)]
