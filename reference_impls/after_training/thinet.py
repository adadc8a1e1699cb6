"""ThiNet: a filter goes when the next layer hardly notices, layer by layer, each followed by some training (luo2017thinet).

Idea: whether a filter matters cannot be read from the filter itself; the next layer's output tells. That output is a sum of
one term per channel, so look for channels whose terms together are smallest, on sampled outputs, and remove those.
The kept channels are then rescaled so that they reproduce the full sum as well as they can.

Cost: one pass over the batches per layer; sums of products of C channels (C x C), then C steps of the greedy search; training
between the layers.

Implementation details
1. One sample is one output value before the bias: for each image `positions` pairs of a random place and a random filter.
2. The greedy search grows the set that is REMOVED, from the empty set: each step adds the channel that keeps the sum over
   samples of (sum of removed terms)^2 smallest.
3. The least-squares factors go into the next layer's weights, as in the authors' code.
4. Each layer is judged on the network as the layers before have left it, pruned and trained; samples are drawn anew.
5. Only units made by one layer and read by one layer: in residual blocks the first convolution, never what a shortcut adds.
   A fully connected reader of flattened maps sees one term per channel, the sum over its pixels.

Deviations: the products are summed once and each greedy step reads from them, where the authors' code sums all samples anew.
Where the factors are not determined (a channel that is always zero), the nearest to 1 are taken; the code inverts a matrix.
"""

import copy

import torch
from torch import Tensor, nn

from reference_impls.core.amounts import Amount, Sparsity, sparsity
from reference_impls.core.blocks import visit_inputs
from reference_impls.core.groups import Group, Member
from reference_impls.core.structures import one_example, per_unit, removable_groups, weights_among
from reference_impls.core.surgery import remove
from reference_impls.core.training import Batches, Train

UNIT = "filter"
GROUP = "layer"
AMOUNTS = (Sparsity,)
NETWORK = "convnet"
# weights_only does not hold: terms are taken from data; idempotent does not hold: what is left would be thinned again
TRAITS = frozenset({"exact_count", "identity_at_zero", "shrinks"})


def terms(layer: nn.Module, inputs: Tensor, positions: int, generator: torch.Generator | None = None) -> Tensor:
    """Samples of a layer's output, split into what each input channel adds: (examples * positions, input channels).

    Args:
        layer: linear, or a convolution over images that is not grouped.
        inputs: what the layer receives, examples first.
        positions: samples per example, each at a random place for a random output channel.
    """
    if isinstance(layer, nn.Conv2d):
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        padded = nn.functional.pad(inputs, layer._reversed_padding_repeated_twice, mode)
        patches = nn.functional.unfold(padded, layer.kernel_size, layer.dilation, 0, layer.stride)
        patches = patches.unflatten(1, (layer.in_channels, -1)).movedim(-1, 1)  # (examples, places, channels, kernel)
        weight = layer.weight.flatten(2)
    else:
        patches = inputs.reshape(len(inputs), -1, layer.in_features, 1)
        weight = layer.weight[:, :, None]
    device = generator.device if generator is not None else "cpu"
    place = torch.randint(patches.shape[1], (len(inputs), positions), generator=generator, device=device).to(inputs.device)
    output = torch.randint(len(weight), (len(inputs), positions), generator=generator, device=device).to(inputs.device)
    # x_c = sum_k1,k2 W_{c,k1,k2} x_{c,k1,k2}
    chosen = patches[torch.arange(len(inputs), device=inputs.device)[:, None], place]
    return (chosen * weight[output]).sum(-1).flatten(0, 1)


def greedy_removal(products: Tensor, count: int) -> list[int]:
    """The channels to remove, in the order in which they are found.

    Args:
        products: X^T X of the sampled terms X: (channels, channels).
        count: how many to remove.
    """
    removed: list[int] = []
    for _ in range(count):
        # argmin_c sum_i (sum_{j in T} x_ij + x_ic)^2 = sum_i x_ic^2 + 2 sum_{j in T} sum_i x_ij x_ic + what does not depend on c
        value = products.diagonal() + 2 * products[removed].sum(0)
        value[removed] = torch.inf
        removed.append(int(value.argmin()))
    return removed


def rescaling(products: Tensor, keep: Tensor) -> Tensor:
    """Factors of the kept channels with which their terms come closest to the full sum: (kept channels,)."""
    # w = argmin_w sum_i (y_i - w^T x*_i)^2 = (X*^T X*)^-1 X*^T y, with y = sum of all terms; written as a step away from w = 1
    kept = products[keep][:, keep]
    missing = products[keep][:, ~keep].sum(1)
    return 1 + torch.linalg.lstsq(kept, missing[:, None], driver="gelsd").solution[:, 0]


def thin(
    model: nn.Module, group: Group, reader: Member, batches: Batches, fraction: float, positions: int, generator: torch.Generator | None
) -> nn.Module:
    """The model without the fraction of one group's units whose absence its reader notices least.

    Raises:
        ValueError: no batch.
    """
    layer = model.get_submodule(reader.layer)
    products = torch.zeros(group.size, group.size, dtype=torch.float64)

    def visit(_: nn.Module, inputs: Tensor) -> None:
        sample = per_unit(reader, terms(layer, inputs, positions, generator).double(), group.size)
        products.add_((sample.T @ sample).cpu())

    visit_inputs(model, (((inputs,), {}) for inputs, _ in batches), [layer], visit)
    keep = torch.ones(group.size, dtype=torch.bool)
    keep[greedy_removal(products, min(round(fraction * group.size), group.size - 1))] = False
    factors = products.new_ones(group.size + 1)  # the last one is for what the reader reads from elsewhere
    factors[:-1][keep] = rescaling(products, keep)
    layer.weight.data.transpose(-1, reader.dim).mul_(factors[reader.units].to(layer.weight))
    return remove(model, [group], {group.name: keep})


def prune(
    model: nn.Module,
    batches: Batches,
    amount: Amount,
    *,
    train: Train | None = None,
    evaluate: object = None,
    positions: int = 10,
    generator: torch.Generator | None = None,
) -> nn.Module:
    """The thinner network, trained after each layer if `train` is given.

    Args:
        batches: images whose outputs are sampled.
        amount: the fraction of each layer's filters to remove; one always stays.
        train: (model, callbacks) -> model; a short fine-tuning.
        evaluate: not used.
        positions: sampled outputs per image.
        generator: draws places and filters.

    Raises:
        ValueError: `amount` is no sparsity, no batch, a NaN or infinite weight, or no layer that a single one reads.
    """
    fraction = sparsity(amount)
    if positions < 1:
        raise ValueError(f"positions: {positions} is below 1")
    work = copy.deepcopy(model).eval()
    thinned = 0
    for group in removable_groups(model, one_example(batches)):
        made, read = weights_among(model, group.producers), weights_among(model, group.consumers)
        reader = model.get_submodule(read[0][0].layer) if len(read) == 1 else None
        if len(made) != 1 or not (isinstance(reader, nn.Linear) or (isinstance(reader, nn.Conv2d) and reader.groups == 1)):
            continue
        thinned += 1
        if round(fraction * group.size):
            work = thin(work, group, read[0][0], batches, fraction, positions, generator)
            work = work if train is None else train(work).eval()
    if not thinned:
        raise ValueError("model: nothing to prune, no layer is made by one layer and read by one")
    return work
