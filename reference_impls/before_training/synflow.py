"""SynFlow: prune before training and without data, by the flow of ones through absolute weights (tanaka2020pruning).

Idea: replace every parameter by its absolute value and send ones through the network; what arrives, R, is the sum over
all paths of their weights' product. A weight's synaptic flow is its share of R. Every hidden unit passes on as much flow
as it receives, so each layer carries the same total, and a layer with few weights left has large scores: pruned little
by little, with scores taken anew each time, no layer dies before it must.

Cost: one forward and one backward pass of a single example per round, 100 rounds.

Implementation details
1. Density after round k of n is final^(k/n): each round keeps the same fraction of what is left.
2. The official code takes absolute values of the whole state, biases and batch norm's statistics too, and scores in
   evaluation mode; so does this. A bias that is not zero starts flow inside the network, layers no longer carry equal
   totals, and the first ones may die: the authors' VGG starts with biases at zero, which PyTorch's layers do not.
3. Products over many layers leave the range of single precision: scores are computed in double precision.
4. Weights pruned in an earlier round score -1, below every other, so masks only shrink. In the official code a pruned
   weight ties with unpruned ones that no path reaches.

Deviations: in each round the official code prunes int((1 - density) * n) weights and every tie, here exactly
round(sparsity * n).
"""

import copy
from collections.abc import Iterable

import torch
from torch import nn

from reference_impls.core.amounts import Amount, Sparsity, sparsity
from reference_impls.core.masks import Masks, Scores, apply_masks, keep_highest, prunable_weights
from reference_impls.core.schedules import exponential_density
from reference_impls.core.training import Batches

UNIT = "weight"
GROUP = "network"
AMOUNTS = (Sparsity,)
NETWORK = "lenet_300_100"
# not idempotent: once paths are cut, weights that led into them score as low as pruned ones
TRAITS = frozenset({"exact_count", "fixed_mask", "identity_at_zero", "weights_only"})


def synaptic_flow(model: nn.Module, batches: Batches) -> Scores:
    """Each weight's share of the flow of ones through the network of absolute values.

    Args:
        model: left as it is.
        batches: only the shape of one input is read from them.

    Raises:
        ValueError: no batch, or inputs that are tokens.
    """
    inputs = next((inputs for inputs, _ in batches), None)
    if inputs is None:
        raise ValueError("batches: no calibration data, and the shape of an input is needed")
    if not inputs.is_floating_point():
        raise ValueError(f"batches: inputs are {inputs.dtype}; ones flow through real-valued inputs only")
    model = copy.deepcopy(model).double().eval()
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.abs_()
    weights = prunable_weights(model)
    # R = 1^T (prod_l |θ^l|) 1
    flow = model(torch.ones_like(inputs[:1], dtype=torch.float64)).sum()
    gradients = torch.autograd.grad(flow, list(weights.values()), allow_unused=True, materialize_grads=True)
    # S = dR/dθ * θ
    return {name: gradient * weight.detach() for (name, weight), gradient in zip(weights.items(), gradients, strict=True)}


def prune_in_rounds(model: nn.Module, batches: Batches, sparsities: Iterable[float]) -> Masks:
    """The masks after pruning to each sparsity in turn, with scores taken anew each time.

    Args:
        model: left as it is.
        batches: only the shape of one input is read from them.
        sparsities: rising fractions of all weights, each in [0, 1).
    """
    model = copy.deepcopy(model)
    kept = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in prunable_weights(model).items()}
    for now in sparsities:
        scores = {name: score.masked_fill(~kept[name], -1.0) for name, score in synaptic_flow(model, batches).items()}
        kept = keep_highest(scores, now)
        apply_masks(model, kept)
    return kept


def masks(model: nn.Module, batches: Batches, amount: Amount, *, rounds: int = 100) -> Masks:
    """Prune in rounds the weights that carry the least flow, compared over the whole network.

    Args:
        model: at initialization; left as it is.
        batches: only the shape of one input is read from them.
        amount: the fraction of all linear and convolution weights to prune, in [0, 1).
        rounds: how often scores are taken, at least 1.

    Raises:
        ValueError: as `synaptic_flow`, no round, or the amount is no sparsity.
    """
    asked = sparsity(amount)
    if rounds < 1:
        raise ValueError(f"rounds: {rounds} is below 1")
    rising = [1 - exponential_density(k, rounds, 1 - asked) for k in range(1, rounds)]
    return prune_in_rounds(model, batches, [*rising, asked])  # not 1 - (1 - asked), which rounding may set apart from asked
