"""Channel pruning: a lasso picks the channels that a layer can do without, least squares refits its weights to the rest (he2017channel).

Idea: a layer's output is a sum of one term per input channel. Give each term a factor and ask for the factors, under an l1 penalty, with
which the output is reproduced best: channels whose factor becomes zero go, with the filters that make them. Then the layer's weights are
fitted anew, by least squares, so that the channels left give the output that the whole layer gave. Layer after layer, no training.

Cost: one pass of the dense and of the pruned network over the batches per layer, products of the C channels' terms (C x C), and one
least-squares problem with the kept patches as columns.

Implementation details
1. Samples are random places of the layer's output, all output channels of each.
2. Each channel's term is taken with weights of Frobenius norm 1, so that the penalty does not see the weights' size.
3. The penalty is such that as many channels as asked have a factor that is not zero. The whole path of solutions is followed (least
   angle regression), so the first penalty at which there are that many is found exactly.
4. Errors do not add up: the output to be met is that of the network before any pruning, from the inputs that the pruned one now gives.
5. Only units made by one layer and read by one layer: in residual blocks the first convolution, never what a shortcut adds.

Deviations: read were the abstract, a summary of the paper and the beginning of a reimplementation. The paper's steps alternate while the
penalty rises; here the channels are picked first, then the weights are fitted once. Where several channels come in at once, those of
largest factor stay. All layers lose the same fraction, and the paper's treatment of branches is left out.
"""

import copy
import warnings

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import lars_path_gram
from torch import Tensor, nn

from reference_impls.core.amounts import Amount, Sparsity, sparsity
from reference_impls.core.groups import Group, Member
from reference_impls.core.structures import one_example, removable_groups, weights_among
from reference_impls.core.surgery import remove
from reference_impls.core.training import Batches, Train

UNIT = "channel"
GROUP = "layer"
AMOUNTS = (Sparsity,)
NETWORK = "convnet"
# weights_only does not hold: outputs are sampled; idempotent does not hold: what is left would be thinned again
TRAITS = frozenset({"exact_count", "identity_at_zero", "shrinks"})


def select(gram: Tensor, correlation: Tensor, count: int) -> Tensor:
    """The channels that still have a factor when the lasso's penalty, coming down from where all are zero, lets in `count` of them.

    Args:
        gram: inner products of the channels' terms, (channels, channels).
        correlation: their inner products with the output, (channels,).
        count: how many to keep.

    Returns:
        bool, shape (channels,); exactly `count` are True.
    """
    # argmin_b ||Y - sum_i b_i X_i W_i^T||_F^2 / (2 N) + lambda ||b||_1, for all lambda at once
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # of channels that say the same, one is left out, as it should be
        _, _, path = lars_path_gram(correlation.cpu().numpy(), gram.cpu().numpy(), n_samples=1, method="lasso")
    reached = np.count_nonzero(path, axis=0) >= count
    factors = np.abs(path[:, reached.argmax() if reached.any() else -1])
    kept = torch.zeros(len(gram), dtype=torch.bool)
    kept[torch.from_numpy(np.argsort(-factors, kind="stable")[:count])] = True
    return kept


def patches(layer: nn.Conv2d | nn.Linear, inputs: Tensor) -> Tensor:
    """What each output of a layer reads: (examples, places, inputs of one output), in the order of its flattened weight."""
    if isinstance(layer, nn.Linear):
        return inputs.reshape(len(inputs), -1, layer.in_features)
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    padded = nn.functional.pad(inputs, layer._reversed_padding_repeated_twice, mode)
    return nn.functional.unfold(padded, layer.kernel_size, layer.dilation, 0, layer.stride).transpose(1, 2)


@torch.no_grad()
def samples(
    model: nn.Module, dense: nn.Module, name: str, batches: Batches, places: int, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """X and Y: what a layer of the pruned network reads at random places, and what the dense one's gives there, without its bias.

    Returns:
        (examples * places, inputs of one output) and (examples * places, output channels), both float64.
    """
    read: dict[nn.Module, Tensor] = {}
    layers = model.get_submodule(name), dense.get_submodule(name)
    hooks = [
        layer.register_forward_pre_hook(lambda owner, args: read.update({owner: patches(owner, args[0]).double()})) for layer in layers
    ]
    sampled = []
    try:
        for inputs, _ in batches:
            model(inputs)
            dense(inputs)
            rows, whole = (read[layer] for layer in layers)
            chosen = torch.randint(rows.shape[1], (len(rows), places), generator=generator).to(rows.device)
            examples = torch.arange(len(rows), device=rows.device)[:, None]
            sampled.append((rows[examples, chosen], whole[examples, chosen] @ layers[1].weight.flatten(1).double().T))
    finally:
        for hook in hooks:
            hook.remove()
    return tuple(torch.cat(part).flatten(0, 1) for part in zip(*sampled, strict=True))


def thin(model: nn.Module, group: Group, reader: Member, x: Tensor, y: Tensor, fraction: float) -> nn.Module:
    """The model without the fraction of one group's channels, its reader refitted to give `y` from what is left of `x`."""
    layer = model.get_submodule(reader.layer)
    weight = layer.weight.detach().flatten(1).double()
    units = reader.units.repeat_interleave(weight.shape[1] // len(reader.units))  # of each column
    elsewhere = units < 0
    y = y - x[:, elsewhere] @ weight[:, elsewhere].T
    # Z_i = X_i W_i^T with ||W_i||_F = 1
    parts = [(x[:, units == i], weight[:, units == i]) for i in range(group.size)]
    terms = torch.stack([(own @ part.T / part.norm().clamp(min=1e-12)).flatten() for own, part in parts])
    keep = select(
        terms @ terms.T / len(x), terms @ y.flatten() / len(x), group.size - min(round(fraction * group.size), group.size - 1)
    ).cpu()
    # W' = argmin ||Y - X' W'^T||_F^2, as the smallest step away from W
    kept = ~elsewhere & keep[units]
    own = x[:, kept]
    step = torch.linalg.lstsq(own.T @ own, own.T @ (y - own @ weight[:, kept].T), driver="gelsd").solution.T
    weight[:, kept] += step
    layer.weight.data.copy_(weight.view_as(layer.weight))
    return remove(model, [group], {group.name: keep})


def prune(
    model: nn.Module,
    batches: Batches,
    amount: Amount,
    *,
    train: Train | None = None,
    evaluate: object = None,
    places: int = 10,
    generator: torch.Generator | None = None,
) -> nn.Module:
    """The network with fewer channels, fine-tuned in the end if `train` is given.

    Args:
        batches: images whose outputs are to be reproduced.
        amount: the fraction of each layer's channels to remove; one always stays.
        train: (model, callbacks) -> model.
        evaluate: not used.
        places: samples per image, >= 1.
        generator: draws the places.

    Raises:
        ValueError: `amount` is no sparsity, no batch, a NaN or infinite weight, or no layer that a single one reads.
    """
    fraction = sparsity(amount)
    if places < 1:
        raise ValueError(f"places: {places} is below 1")
    work, dense = copy.deepcopy(model).eval(), copy.deepcopy(model).eval()
    thinned = False
    for group in removable_groups(model, one_example(batches)):
        made, read = weights_among(model, group.producers), weights_among(model, group.consumers)
        reader = model.get_submodule(read[0][0].layer) if len(read) == 1 else None
        if len(made) != 1 or not (isinstance(reader, nn.Linear) or (isinstance(reader, nn.Conv2d) and reader.groups == 1)):
            continue
        thinned = True
        if round(fraction * group.size):
            x, y = samples(work, dense, read[0][0].layer, batches, places, generator)
            work = thin(work, group, read[0][0], x, y, fraction)
    if not thinned:
        raise ValueError("model: nothing to prune, no layer is made by one layer and read by one")
    return work if train is None else train(work)
