"""SWP: a learned skeleton says which stripes of a filter, its columns over the input channels, form its best shape (meng2020pruning).

Idea: a filter of k x k positions is k^2 stripes, one per position, each a 1 x 1 filter over all input channels. Every stripe gets a factor,
its entry in the filter's skeleton; the factors are trained with the weights under an l1 penalty, and stripes whose factor becomes small
go for good. Filters end up with shapes of their own. A stripe goes as a whole, so what is left is a 1 x 1 convolution with fewer
outputs, whose maps are shifted to their positions and added up: no sparse kernels, and finer than whole filters.

Cost: one factor per stripe and their multiplication with the weights at each step; afterwards nothing.

Implementation details
1. All factors start at 1. After each backward pass alpha * sign(factor) is added to a factor's gradient; then factors not above the
   threshold become zero, and so do their gradients. The order is that of the authors' code.
2. Momentum may move a zero factor by less than the threshold; the next step clears it, and so does the end.
3. The end multiplies the factors into the weights; no fine-tuning follows. `reorganized` gives the network of 1 x 1 convolutions.
4. The authors train CIFAR-10 with alpha 1e-5, threshold 0.01 and 160 epochs; few epochs need a larger alpha.

Deviations: the authors start normalization's scales at 0.5 and clear the scale and shift of filters without stripes, whose maps are then
removed; here they stay and such a map is its normalization's shift. A layer of which nothing would stay keeps its largest stripe, where
the authors' code fails. Convolutions that share their weight with another layer are left alone.
"""

import copy
from collections import Counter

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

from reference_impls.core.amounts import Amount, Strength, as_amount
from reference_impls.core.masks import prunable_weights
from reference_impls.core.training import Callback

UNIT = "stripe"
GROUP = "network"
AMOUNTS = (Strength,)
NETWORK = "resnet8"
# no exact_count: the penalty decides how many go; no identity_at_zero: at strength 0 factors are trained too
# no fixed_mask: a zero factor is cleared only before the next step; no shrinks: zero stripes keep their place until `reorganized`
TRAITS: frozenset[str] = frozenset()


class Skeleton(nn.Module):
    """A filter's shape: one factor for each of its stripes, multiplied with all input channels of the stripe."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.factors = nn.Parameter(torch.ones_like(weight[:, 0]))  # (filters, height, width)

    def forward(self, weight: Tensor) -> Tensor:
        # W_n,c,i,j * I_n,i,j
        return weight * self.factors.unsqueeze(1)


def kept_stripes(factors: Tensor, threshold: float) -> Tensor:
    """Which stripes of a layer stay: those above the threshold, or the largest if there is none; shaped as the factors."""
    size = factors.detach().abs()
    return size > min(threshold, float(size.max()) * (1 - 1e-6))


class StripeTraining(Callback):
    """Gives every convolution a skeleton, trains it under the penalty, and writes it into the weights in the end.

    Attributes:
        skeletons: layer name -> its skeleton.
    """

    def __init__(self, strength: float, threshold: float) -> None:
        self.strength = strength
        self.threshold = threshold
        self.skeletons: dict[str, Skeleton] = {}

    def start(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for name in convolutions(model):
            layer = model.get_submodule(name)
            self.skeletons[name] = Skeleton(layer.weight.detach())
            parametrize.register_parametrization(layer, "weight", self.skeletons[name])
        optimizer.add_param_group({"params": [skeleton.factors for skeleton in self.skeletons.values()]})

    @torch.no_grad()
    def after_backward(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for skeleton in self.skeletons.values():
            # L + alpha sum |I|
            skeleton.factors.grad += self.strength * skeleton.factors.sign()
            kept = kept_stripes(skeleton.factors, self.threshold)
            skeleton.factors *= kept
            skeleton.factors.grad *= kept

    @torch.no_grad()
    def finish(self, model: nn.Module) -> nn.Module:
        for name, skeleton in self.skeletons.items():
            skeleton.factors *= kept_stripes(skeleton.factors, self.threshold)
            parametrize.remove_parametrizations(model.get_submodule(name), "weight", leave_parametrized=True)
        return model


def convolutions(model: nn.Module) -> list[str]:
    """The names of the 2-d convolutions with a trainable weight of their own.

    Raises:
        ValueError: there is none, or a weight is NaN or infinite.
    """
    prunable_weights(model)
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d)}
    shared = Counter(id(module.weight) for module in model.modules() if isinstance(getattr(module, "weight", None), Tensor))
    found = [name for name, layer in layers.items() if layer.weight.requires_grad and shared[id(layer.weight)] == 1]
    if not found:
        raise ValueError("model: nothing to prune, no 2-d convolution has a trainable weight of its own")
    return found


class StripeConvolution(nn.Module):
    """A convolution of single stripes: a 1 x 1 convolution, whose maps are shifted to their positions and added.

    Attributes:
        weight: the stripes that are not zero: shape (stripes, input channels, 1, 1).
    """

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__()
        self.filters, self.kernel_size, self.stride = layer.out_channels, layer.kernel_size, layer.stride
        self.padding, self.dilation = layer.padding, layer.dilation
        stripes = layer.weight.detach().permute(0, 2, 3, 1)  # filter, row, column, channel
        self.register_buffer("places", stripes.any(-1).nonzero())  # (stripes, 3)
        self.weight = nn.Parameter(stripes[tuple(self.places.T)][:, :, None, None].clone())
        self.bias = None if layer.bias is None else nn.Parameter(layer.bias.detach().clone())

    def forward(self, inputs: Tensor) -> Tensor:
        (high, wide), (down, right) = self.padding, self.stride
        maps = functional.pad(functional.conv2d(inputs, self.weight), (wide, wide, high, high))
        rows, columns = (
            (maps.shape[axis + 2] - self.dilation[axis] * (self.kernel_size[axis] - 1) - 1) // self.stride[axis] + 1 for axis in (0, 1)
        )
        outputs = maps.new_zeros(len(inputs), self.filters, rows, columns)
        for i, j in self.places[:, 1:].unique(dim=0).tolist():
            here = (self.places[:, 1:] == torch.tensor([i, j], device=maps.device)).all(1)
            top, left = i * self.dilation[0], j * self.dilation[1]
            shifted = maps[:, here, top : top + down * (rows - 1) + 1 : down, left : left + right * (columns - 1) + 1 : right]
            outputs.index_add_(1, self.places[here, 0], shifted)
        return outputs if self.bias is None else outputs + self.bias[:, None, None]


def reorganized(model: nn.Module) -> nn.Module:
    """A copy of the model that computes the same, its convolutions made of those stripes that are not zero.

    Grouped convolutions, and those whose padding is not of zeros given by number, stay as they are.
    """
    small = copy.deepcopy(model)
    for name, layer in list(small.named_modules()):
        if isinstance(layer, nn.Conv2d) and layer.groups == 1 and layer.padding_mode == "zeros" and not isinstance(layer.padding, str):
            small.set_submodule(name, StripeConvolution(layer))
    return small


def callbacks(model: nn.Module, amount: Amount, *, steps: int = 0, threshold: float = 0.01) -> list[Callback]:
    """Train with these; the network that comes out has filters of fewer stripes.

    Args:
        model: with 2-d convolutions.
        amount: `Strength(alpha)`, the factor of the l1 penalty on the skeletons.
        steps: not used.
        threshold: delta; a stripe goes once the magnitude of its factor is not above it, in [0, 1).

    Raises:
        ValueError: an argument is out of its range, a weight is NaN or infinite, or there is no convolution to prune.
    """
    strength = as_amount(amount, Strength).factor
    if not 0 <= threshold < 1:
        raise ValueError(f"threshold: {threshold} is not in [0, 1)")
    convolutions(model)
    return [StripeTraining(strength, threshold)]
