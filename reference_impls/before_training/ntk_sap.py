"""NTK-SAP: prune before training, without data, the weights that the spectrum of the neural tangent kernel feels least (wang2023ntk).

Idea: how a wide network trains follows from the eigenvalues of its neural tangent kernel, so keep those. Their sum, the kernel's
nuclear norm, is the expected squared change of the outputs under a small random change of the weights, over its variance. Prune in
rounds what that change of the outputs feels least. It is felt on random inputs and for many random draws of the weights, so that
the mask fits the network's shape, not one initialization.

Cost: per round and batch three forward passes and one backward pass; 20 rounds.

Implementation details
1. A gate acts on a weight in both networks, before and after the change: (θ0 + Δθ) ⊙ m against θ0 ⊙ m.
2. Derivatives are summed over all batches and draws, and the absolute value is taken after the sum.
3. Every batch sees newly drawn weights, a new change ε N(0, 1) with ε = 0.01, and new inputs N(0, 1) of its shape.
4. Batch norm is used with statistics of those random inputs, taken in one pass before, as in the authors' code.
5. Density after round t of T is final^(t/T); a closed gate scores 0, below the others.

Deviations: weights are drawn from Kaiming's normal distribution, where the authors' code calls its network's own initialization; biases
and norms stay as they are. It prunes every tie, here exactly round(sparsity * n) go.
"""

import copy

import torch
from torch import Tensor, nn
from torch.func import functional_call

from reference_impls.core.amounts import Amount, Sparsity, sparsity
from reference_impls.core.masks import Masks, Scores, prunable_weights, prune_further
from reference_impls.core.schedules import sparsities_in_rounds
from reference_impls.core.training import Batches

UNIT = "weight"
GROUP = "network"
AMOUNTS = (Sparsity,)
NETWORK = "lenet_300_100"
QUICK = {"rounds": 3}
# weights_only is said of their shapes and of the inputs' shape; not idempotent: other weights and inputs would be drawn
TRAITS = frozenset({"exact_count", "fixed_mask", "identity_at_zero", "weights_only"})


def change_felt(model: nn.Module, kept: Masks, change: dict[str, Tensor], inputs: Tensor) -> dict[str, Tensor]:
    """How each gate moves the squared change of the outputs, with its sign.

    Args:
        model: in the mode in which it is to be run.
        kept: mask per weight, the gates' values.
        change: weight -> what is added to it, shaped as the weight.
        inputs: a batch; outputs are summed over it.
    """
    gates = {name: mask.to(change[name].dtype).requires_grad_() for name, mask in kept.items()}
    theta = {name: model.get_parameter(name).detach() for name in kept}
    before = functional_call(model, {name: theta[name] * gate for name, gate in gates.items()}, (inputs,))
    after = functional_call(model, {name: (theta[name] + change[name]) * gate for name, gate in gates.items()}, (inputs,))
    # d/dm ||f(θ0 ⊙ m) - f((θ0 + Δθ) ⊙ m)||^2
    pull = torch.autograd.grad((before - after).square().sum(), list(gates.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(gates, pull, strict=True))


def spectrum_sensitivity(
    model: nn.Module, kept: Masks, batches: Batches, *, epsilon: float = 0.01, draws: int = 1, generator: torch.Generator | None = None
) -> Scores:
    """How strongly the kernel's nuclear norm feels each gate, summed over random weights and inputs; 0 for closed gates.

    Args:
        model: left as it is; its weights' values are not looked at.
        kept: mask per weight.
        batches: only the shapes of the inputs are read, one batch of random inputs for each.
        epsilon: standard deviation of the change of the weights, above 0.
        draws: how often all batches are gone through, at least 1.
        generator: draws weights, changes and inputs; without it PyTorch's global random state.

    Raises:
        ValueError: no batch, inputs that are tokens, or an argument out of its range.
    """
    if not epsilon > 0 or draws < 1:
        raise ValueError(f"epsilon: {epsilon} is not above 0" if not epsilon > 0 else f"draws: {draws} is below 1")
    model = copy.deepcopy(model)
    weights = prunable_weights(model)
    normal = lambda like: torch.randn(like.shape, generator=generator, dtype=like.dtype).to(like.device)
    total = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    seen = False
    for _ in range(draws):
        for inputs, _ in batches:
            if not inputs.is_floating_point():
                raise ValueError(f"batches: inputs are {inputs.dtype}; random ones are drawn for real-valued inputs only")
            seen = True
            for weight in weights.values():
                nn.init.kaiming_normal_(weight, nonlinearity="relu", generator=generator)
            inputs = normal(inputs)
            _take_statistics(model, kept, inputs)
            change = {name: epsilon * normal(weight) for name, weight in weights.items()}
            for name, felt in change_felt(model, kept, change, inputs).items():
                total[name] += felt
    if not seen:
        raise ValueError("batches: no calibration data, and the shape of an input is needed")
    return {name: felt.abs() * kept[name] for name, felt in total.items()}


@torch.no_grad()
def _take_statistics(model: nn.Module, kept: Masks, inputs: Tensor) -> None:
    """Leave the model in evaluation mode, its norms with the statistics of these inputs in the pruned network."""
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats]
    for module in norms:
        module.momentum = 1.0
    if norms:
        functional_call(model.train(), {name: model.get_parameter(name) * mask for name, mask in kept.items()}, (inputs,))
    model.eval()


def masks(
    model: nn.Module,
    batches: Batches,
    amount: Amount,
    *,
    rounds: int = 20,
    draws: int = 1,
    epsilon: float = 0.01,
    generator: torch.Generator | None = None,
) -> Masks:
    """Prune in rounds the weights that the spectrum of the neural tangent kernel feels least, compared over the whole network.

    Args:
        model: left as it is; only its architecture, biases and norms matter.
        batches: only the shapes of the inputs are read.
        amount: the fraction of all linear and convolution weights to prune, in [0, 1).
        rounds: how often scores are taken, at least 1.
        draws: how often all batches are gone through in a round, each time with new weights, at least 1.
        epsilon: standard deviation of the change of the weights, above 0.
        generator: draws weights, changes and inputs; without it PyTorch's global random state.

    Raises:
        ValueError: as `spectrum_sensitivity`, no round, or the amount is no sparsity.
    """
    kept = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in prunable_weights(model).items()}
    for now in sparsities_in_rounds(sparsity(amount), rounds):
        kept = prune_further(spectrum_sensitivity(model, kept, batches, epsilon=epsilon, draws=draws, generator=generator), now, kept)
    return kept
