"""CGNet: sum a few input channels first, and the others only where that sum says that the activation will matter (hua2019channel).

Idea: behind a rectifier most activations are zero or small, and a sum over a few input channels foretells which. Each
convolution computes this partial sum everywhere. One threshold per output channel then decides, for each position of each
input, whether the remaining input channels are computed too; elsewhere the partial sum is the result. No predictor is needed:
the work done for the guess is part of the work that the answer needs.

Cost: a normalization of the partial sum and a comparison per activation. With a base of 1/p of the input channels at most
1 - 1/p of a layer's multiply-accumulates can be saved. The zeros have no regular shape; the paper builds hardware for them.

Implementation details (1 to 4 as in the authors' code)
1. The base are the first C // p input channels, for all output channels; p = 4 by default.
2. The partial sum is normalized without scale and shift, so that one number means the same as threshold in every channel.
3. The step has no gradient; in the backward pass it is a sigmoid of slope alpha = 2.
4. The penalty is 1e-4 times the squared distances of all thresholds from one target, which sets how much is skipped.
5. Every ungrouped convolution of at least p input channels is gated, as in the code's network that rectifies before it adds.

Deviations: the target is not given but follows from the fraction to skip: the quantile of the standard normal distribution, as if
partial sums were normal; what is reached is what `macs` says. Thresholds start there, where the code starts them anywhere.
The code passes the gradient as if the sigmoid were not cut off, and so does this; its variants that block it below the threshold,
group the base and shuffle channels are left out, as are the paper's quantization and hardware.
"""

import copy
from statistics import NormalDist

from torch import Tensor, nn

from reference_impls.core.amounts import Amount, Sparsity, sparsity
from reference_impls.core.masks import prunable_weights
from reference_impls.core.per_input import dense, macs_per_example, straight_through

UNIT = "channel"
GROUP = "layer"
AMOUNTS = (Sparsity,)
NETWORK = "resnet8"
# identity_at_zero does not hold: nothing is skipped, but thresholds and normalizations are there to train;
# weights_only does not hold: what is computed depends on each input; no shrinks: all channels stay, for the inputs that need them;
# exact_count is meant of what stands in the saved network: all of it
TRAITS: frozenset[str] = frozenset()


def target_threshold(fraction: float) -> float:
    """The threshold that `fraction` of all normally distributed partial sums, in [0, 1), stay below."""
    return NormalDist().inv_cdf(max(fraction, 1e-9))


class GatedConvolution(nn.Conv2d):
    """A convolution that computes the input channels behind the base only where the base's sum passes a threshold."""

    def __init__(self, convolution: nn.Conv2d, partitions: int, threshold: float, slope: float) -> None:
        given = {name: getattr(convolution, name) for name in ("stride", "padding", "dilation", "padding_mode")}
        super().__init__(convolution.in_channels, convolution.out_channels, convolution.kernel_size, **given, device="meta")
        self.weight, self.bias = convolution.weight, convolution.bias
        self.base, self.slope = self.in_channels // partitions, slope
        self.normalization = nn.BatchNorm2d(self.out_channels, affine=False).to(self.weight)
        self.threshold = nn.Parameter(self.weight.new_full((self.out_channels,), threshold))

    def partial_sum(self, inputs: Tensor) -> Tensor:
        """The outputs as the base alone gives them, bias included: (examples, channels, height, width)."""
        # Y_p = W_p * X_p
        return self._conv_forward(inputs[:, : self.base], self.weight[:, : self.base], self.bias)

    def gates(self, partial: Tensor) -> Tensor:
        """1 where the remaining channels are computed, 0 elsewhere; shaped as the partial sum."""
        # d = step(sigmoid(alpha (norm(Y_p) - Delta)) - 1/2)
        soft = (self.slope * (self.normalization(partial) - self.threshold[:, None, None])).sigmoid()
        return straight_through((soft > 0.5).to(soft), soft)

    def forward(self, inputs: Tensor) -> Tensor:
        partial = self.partial_sum(inputs)
        gate = self.gates(partial)
        # out = d Y + (1 - d) Y_p
        return gate * super().forward(inputs) + (1 - gate) * partial


class ChannelGating(nn.Module):
    """A network whose convolutions finish, for each input, only those activations that promise to matter."""

    def __init__(self, network: nn.Module, target: float, strength: float) -> None:
        super().__init__()
        self.network = network
        self.target, self.strength = target, strength

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.network(*inputs)

    def gated(self) -> list[GatedConvolution]:
        """The gated convolutions, in the network's order."""
        return [module for module in self.network.modules() if isinstance(module, GatedConvolution)]

    def penalty(self) -> Tensor:
        """How far the thresholds are from their target."""
        # lambda sum_l ||Delta_l - T||^2
        return self.strength * sum((layer.threshold - self.target).square().sum() for layer in self.gated())

    def macs(self, inputs: Tensor) -> Tensor:
        """Multiply-accumulates of convolutions and linear layers that each example needs: (examples,)."""

        def cost(layer: nn.Module, inputs: Tensor, outputs: Tensor) -> Tensor | int:
            if not isinstance(layer, GatedConvolution):
                return dense(layer, outputs)
            each = layer.weight[0, 0].numel()
            finished = layer.gates(layer.partial_sum(inputs)).sum((1, 2, 3))
            return each * (layer.base * outputs[0].numel() + (layer.in_channels - layer.base) * finished)

        return macs_per_example(self, inputs, cost)


def wrap(model: nn.Module, amount: Amount, *, partitions: int = 4, slope: float = 2.0, strength: float = 1e-4) -> ChannelGating:
    """A copy of the model in which every ungrouped convolution of enough input channels is gated; train it afterwards.

    Args:
        amount: the fraction of activations that should stay at their partial sum.
        partitions: p, >= 2; the base is 1/p of a layer's input channels.
        slope: alpha, of the sigmoid in the backward pass, > 0.
        strength: lambda, the factor of the penalty that draws thresholds to their target.

    Raises:
        ValueError: `amount` is no sparsity, `partitions` is below 2, a weight is NaN or infinite, or no convolution can be gated.
    """
    target = target_threshold(sparsity(amount))
    if partitions < 2:
        raise ValueError(f"partitions: {partitions} is below 2, which leaves nothing to skip")
    prunable_weights(model)
    network = copy.deepcopy(model)
    found = [
        name
        for name, layer in network.named_modules()
        if isinstance(layer, nn.Conv2d) and layer.groups == 1 and layer.in_channels >= partitions
    ]
    if not found:
        raise ValueError(f"model: no ungrouped convolution of at least {partitions} input channels")
    for name in found:
        network.set_submodule(name, GatedConvolution(network.get_submodule(name), partitions, target, slope))
    return ChannelGating(network, target, strength).train(model.training)
