"""FBS: foretell from a layer's input which output channels will matter, amplify those, skip the others (gao2019dynamic).

Idea: how much a channel matters depends on the image. A tiny predictor beside each convolution looks at the mean size of its
input channels and gives each output channel a saliency; the most salient ones stay and are scaled by their saliency
(boosting), the rest are zero and never computed (suppression). Nothing is removed for good, so rare inputs find their channels.

Cost: a mean over each feature map and a (channels in) x (channels out) product per layer and example. What it saves is
quadratic: a skipped channel spares its own filter here, and one input channel in the next layer.

Implementation details
1. The gate stands where batch normalization had its scale: the scale goes, the shift stays.
2. Predictors start with bias 1 and small random weights, so that all channels start almost equally salient. Both as in the authors' code.
3. The choice of winners has no gradient; the winners' saliencies carry it, so plain gradient descent trains everything.
4. In training, a layer's saliencies of the last batch are kept for `penalty`.
5. `macs` counts the predictors too. An input channel that is zero everywhere costs nothing; its mean, which the predictor has, tells.

Deviations: C - round(s C) channels win, where the paper has ceil(d C) for the density d = 1 - s; one always wins.
The paper lowers the density in steps and trains after each: here `wrap` sets it once, and `suppress` lowers it later.
The authors' code takes the penalty of the winners only; here it is of all saliencies. The default strength is a reimplementation's.
"""

import copy

import torch
from torch import Tensor, fx, nn

from reference_impls.core.amounts import Amount, Sparsity, sparsity
from reference_impls.core.masks import prunable_weights

UNIT = "channel"
GROUP = "layer"
AMOUNTS = (Sparsity,)
NETWORK = "resnet8"
# identity_at_zero does not hold: at sparsity 0 every channel is still scaled by its saliency, in place of the normalization's own scale;
# weights_only does not hold: what is computed depends on each input; no shrinks: all channels stay, for the inputs that need them
# exact_count is meant of what stands in the saved network: all of it
TRAITS: frozenset[str] = frozenset()


def winners_take_all(saliency: Tensor, suppressed: int) -> Tensor:
    """The saliencies (examples, channels) with the `suppressed` lowest of each example set to zero; of equal ones the first go."""
    lowest = saliency.detach().argsort(dim=1, stable=True)[:, :suppressed]
    return saliency.scatter(1, lowest, 0)


class GatedConvolution(nn.Conv2d):
    """A convolution with its batch normalization, whose scale gives way to the gate of each output channel; it keeps its weight's name."""

    def __init__(self, convolution: nn.Conv2d, normalization: nn.BatchNorm2d, generator: torch.Generator | None = None) -> None:
        given = {name: getattr(convolution, name) for name in ("stride", "padding", "dilation", "padding_mode")}
        super().__init__(convolution.in_channels, convolution.out_channels, convolution.kernel_size, **given, device="meta")
        self.weight, self.bias = convolution.weight, convolution.bias
        self.shift = nn.Parameter(torch.zeros_like(self.weight[:, 0, 0, 0])) if normalization.bias is None else normalization.bias
        self.normalization = normalization
        normalization.affine = False
        normalization.weight = normalization.bias = None
        self.predictor = nn.Linear(self.in_channels, self.out_channels).to(self.weight)
        nn.init.trunc_normal_(self.predictor.weight, std=0.01, generator=generator)
        nn.init.ones_(self.predictor.bias)
        self.suppressed = 0
        self.saliency: Tensor | None = None  # of the last training batch

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "saliency": None}  # it hangs on a graph, which cannot be copied

    def subsample(self, inputs: Tensor) -> Tensor:
        """Mean absolute value of each input channel: (examples, channels, height, width) -> (examples, channels)."""
        # ss(x) = 1 / (H W) [ ||x^1||_1 ... ||x^C||_1 ]
        return inputs.abs().mean((2, 3))

    def gates(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Each output channel's saliency, and the gate that is left of it: twice (examples, channels)."""
        # g(x) = (ss(x) phi + rho)_+
        saliency = self.predictor(self.subsample(inputs)).relu()
        # pi(x) = wta_k(g(x))
        return saliency, winners_take_all(saliency, self.suppressed)

    def forward(self, inputs: Tensor) -> Tensor:
        saliency, gate = self.gates(inputs)
        self.saliency = saliency if self.training else None
        # f(x) = pi(x) (norm(conv(x, theta)) + beta), before the activation that follows
        return gate[:, :, None, None] * (self.normalization(super().forward(inputs)) + self.shift[:, None, None])


class FeatureBoosting(nn.Module):
    """A network whose convolutions skip, for each input, the channels that its predictors hold to be unimportant."""

    def __init__(self, network: nn.Module, strength: float) -> None:
        super().__init__()
        self.network = network
        self.strength = strength

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.network(*inputs)

    def gated(self) -> list[GatedConvolution]:
        """The gated convolutions, in the network's order."""
        return [module for module in self.network.modules() if isinstance(module, GatedConvolution)]

    def suppress(self, amount: Amount) -> None:
        """From now on skip this fraction of each layer's output channels, at least one staying.

        Raises:
            ValueError: `amount` is no sparsity.
        """
        fraction = sparsity(amount)
        for layer in self.gated():
            layer.suppressed = min(round(fraction * layer.out_channels), layer.out_channels - 1)

    def penalty(self) -> Tensor | float:
        """The lasso that keeps saliencies small, of the last training batch."""
        # lambda sum_l E_x ||g_l(x)||_1
        return self.strength * sum(layer.saliency.sum(1).mean() for layer in self.gated() if layer.saliency is not None)

    @torch.no_grad()
    def macs(self, inputs: Tensor) -> Tensor:
        """Multiply-accumulates of convolutions, linear layers and predictors that each example needs: (examples,)."""
        counts = torch.zeros(len(inputs), dtype=torch.long)

        def count(layer: nn.Module, args: tuple[Tensor], outputs: Tensor) -> None:
            if not isinstance(layer, GatedConvolution):
                counts.add_(outputs[0].numel() * layer.weight[0].numel())
                return
            read = (layer.subsample(args[0]) != 0).sum(1)
            computed = (layer.gates(args[0])[1] != 0).sum(1)
            each = outputs[0, 0].numel() * layer.weight[0, 0].numel()
            counts.add_((read * computed * each).cpu() + layer.predictor.weight.numel())

        predictors = {layer.predictor for layer in self.gated()}
        layers = [module for module in self.network.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
        hooks = [layer.register_forward_hook(count) for layer in layers if layer not in predictors]
        training = self.training
        try:
            self.eval()(inputs)
        finally:
            self.train(training)
            for hook in hooks:
                hook.remove()
        return counts


def wrap(model: nn.Module, amount: Amount, *, strength: float = 1e-8, generator: torch.Generator | None = None) -> FeatureBoosting:
    """A copy of the model in which every convolution that batch normalization follows is gated; fine-tune it afterwards.

    Args:
        model: traceable by `torch.fx`; grouped convolutions stay as they are.
        amount: the fraction of each gated layer's output channels to skip for each example.
        strength: lambda, the factor of the lasso.
        generator: draws the predictors' first weights.

    Raises:
        ValueError: `amount` is no sparsity, a weight is NaN or infinite, or no convolution is followed by batch normalization.
    """
    fraction = sparsity(amount)
    prunable_weights(model)
    network = copy.deepcopy(model)
    modules = dict(network.named_modules())
    pairs = []
    for node in fx.symbolic_trace(network).graph.nodes:
        before = node.args[0] if node.op == "call_module" else None
        if isinstance(before, fx.Node) and before.op == "call_module" and len(before.users) == 1:
            convolution, normalization = modules[before.target], modules[node.target]
            if isinstance(convolution, nn.Conv2d) and isinstance(normalization, nn.BatchNorm2d) and convolution.groups == 1:
                pairs.append((before.target, node.target))
    if not pairs:
        raise ValueError("model: no convolution is followed by batch normalization, whose scale the gates replace")
    for name, norm_name in pairs:
        network.set_submodule(name, GatedConvolution(modules[name], modules[norm_name], generator))
        network.set_submodule(norm_name, nn.Identity())
    boosted = FeatureBoosting(network, strength)
    boosted.suppress(fraction)
    return boosted
