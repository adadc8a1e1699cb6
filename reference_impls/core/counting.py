"""What a network costs: parameters, multiply-accumulates, bytes, and how many of its weights are zero."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Report:
    """Weight sparsity in [0, 1], parameters (shared ones once), multiply-accumulates of one forward pass."""

    weight_sparsity: float
    parameters: int
    macs: int


def report(model: nn.Module, *inputs) -> Report:
    """All three counts of a model called with `inputs`."""
    return Report(weight_sparsity(model), parameters(model), macs(model, *inputs))


def parameters(model: nn.Module) -> int:
    """All parameters, frozen ones too; a shared one counts once."""
    return sum(parameter.numel() for parameter in model.parameters())


def bytes_of(model: nn.Module) -> int:
    """Bytes of all parameters and buffers, as they lie in memory; a shared one counts once."""
    return sum(tensor.nbytes for tensor in {id(t): t for t in [*model.parameters(), *model.buffers()]}.values())


def weight_sparsity(model: nn.Module) -> float:
    """Fraction of zeros among the weights of linear and convolution layers, a shared weight once.

    Raises:
        ValueError: the model has no such layer.
    """
    layers = [module for module in model.modules() if isinstance(module, nn.Linear | nn.modules.conv._ConvNd)]
    weights = {id(layer.weight): layer.weight for layer in layers}.values()
    if not weights:
        raise ValueError("model: no linear or convolution layer")
    return sum(int((weight == 0).sum()) for weight in weights) / sum(weight.numel() for weight in weights)


def macs(model: nn.Module, *inputs) -> int:
    """Multiply-accumulates that one forward pass over `inputs` executes, all examples together.

    Counts matrix products and convolutions, those of attention too (a causal mask saves none of them); zeros are multiplied
    like any number. Biases, norms, activations and pooling are not counted.
    """
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        # the fused attention of the CPU is unknown to the counter; the plain one is made of two matrix products
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            model(*inputs)
    finally:
        for module in training:
            module.training = True
    return counter.get_total_flops() // 2
