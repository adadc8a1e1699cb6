"""Supermasks: which weights a ticket keeps, what it sets them to, and masks that work without any training (zhou2019deconstructing).

Idea: the lottery ticket procedure makes three choices, and each can be made otherwise. Which weights to keep: a mask criterion ranks
them by where they began and where training took them. What the kept ones become: their initial values, others, or only a
constant with their initial sign. What the others become: zero. A good criterion makes masks that lift the untrained network far above
chance: masking is a kind of training. Such supermasks can also be learned directly, with all weights frozen.

Cost: a training run for a criterion; for a learned mask one training run of one logit per weight.

Implementation details
1. Layers are ranked apart, as the authors do. A weight that ends with another sign scores 0 under `large_final_same_sign`.
2. The constant of a layer is the deviation of its initial values.
3. A learned mask draws every entry anew in each step, with the probability sigmoid(logit); its gradient passes through the draw as if it
   were the probability. Logits begin at 0. Biases stay as they are and are not masked.
4. The learned mask is a distribution: the authors evaluate ten draws of it. Here the logits are also scores, to prune exactly.

Deviations: the authors prune in rounds, a fifth per round in hidden layers and half of that in the last; here one round and the same
fraction for all. Weights that go are set to zero; the paper also freezes them at their initial values. Its rescaling of kept weights by the
density that a learned mask reaches is left out.
"""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from reference_impls.core.amounts import Amount, Sparsity, sparsity
from reference_impls.core.masks import Masks, apply_masks, keep_highest, prunable_weights
from reference_impls.core.training import Batches, Loss, Train, cross_entropy, needed

UNIT = "weight"
GROUP = "layer"
AMOUNTS = (Sparsity,)
NETWORK = "lenet_300_100"
# no idempotent and no weights_only: the masks come from training
TRAITS = frozenset({"exact_count", "fixed_mask", "identity_at_zero"})

# (w_i, w_f) -> score, higher = keep
CRITERIA: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "large_final": lambda initial, final: final.abs(),
    "small_final": lambda initial, final: -final.abs(),
    "large_init": lambda initial, final: initial.abs(),
    "small_init": lambda initial, final: -initial.abs(),
    "magnitude_increase": lambda initial, final: final.abs() - initial.abs(),
    "movement": lambda initial, final: (final - initial).abs(),
    # max(0, w_i w_f / |w_i|)
    "large_final_same_sign": lambda initial, final: (initial.sign() * final).clamp(min=0),
    # max(0, -w_i w_f / |w_i|)
    "large_final_diff_sign": lambda initial, final: (-initial.sign() * final).clamp(min=0),
}


def reinitialized(initial: Tensor, mask: Tensor, generator: torch.Generator | None) -> Tensor:
    """Other values: drawn from a normal distribution of the initial values' deviation."""
    return initial.std(correction=0) * torch.randn(initial.shape, generator=generator).to(initial)


def reshuffled(initial: Tensor, mask: Tensor, generator: torch.Generator | None) -> Tensor:
    """The initial values of the kept weights, in another order among these."""
    shuffled = initial.clone()
    kept = initial[mask]
    shuffled[mask] = kept[torch.randperm(len(kept), generator=generator).to(kept.device)]
    return shuffled


def constant(initial: Tensor, mask: Tensor, generator: torch.Generator | None) -> Tensor:
    """The deviation of the layer's initial values, with each one's own sign."""
    return initial.sign() * initial.std(correction=0)


# what the kept weights are set to: (initial values, mask, generator) -> values
ACTIONS: dict[str, Callable[[Tensor, Tensor, torch.Generator | None], Tensor]] = {
    "rewind": lambda initial, mask, generator: initial,
    "reinitialize": reinitialized,
    "reinitialize_same_sign": lambda initial, mask, generator: initial.sign() * reinitialized(initial, mask, generator).abs(),
    "reshuffle": reshuffled,
    "constant": constant,
}


def mask_by(initial: nn.Module, final: nn.Module, amount: Amount, criterion: str) -> Masks:
    """The masks that a criterion of `CRITERIA` gives, each layer ranked on its own.

    Args:
        initial, final: the same network before and after training.
    """
    begin = prunable_weights(initial)
    scores = {name: CRITERIA[criterion](begin[name].detach(), weight.detach()) for name, weight in prunable_weights(final).items()}
    return keep_highest(scores, amount, "layer")


@torch.no_grad()
def masked_initial(model: nn.Module, masks: Masks, action: str = "rewind", generator: torch.Generator | None = None) -> nn.Module:
    """A copy of the untrained network: kept weights as an action of `ACTIONS` says, the others zero."""
    ticket = copy.deepcopy(model)
    for name, weight in prunable_weights(ticket).items():
        weight.copy_(ACTIONS[action](weight.clone(), masks[name], generator))
    apply_masks(ticket, masks)
    return ticket


def learned_logits(
    model: nn.Module,
    batches: Batches,
    epochs: int,
    *,
    learning_rate: float = 100.0,
    loss: Loss = cross_entropy,
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """Trains a mask for a network whose weights stay as they are: one logit per prunable weight; each is kept with sigmoid(logit).

    Args:
        learning_rate: of plain gradient descent with momentum 0.9; large, as logits have small gradients.
        generator: draws the masks; the default generator if None.

    Raises:
        ValueError: no batch, or a model with nothing to prune.
    """
    network = copy.deepcopy(model).train()
    weights = {name: weight.detach() for name, weight in prunable_weights(network).items()}
    logits = {name: torch.zeros_like(weight).requires_grad_() for name, weight in weights.items()}
    optimizer = torch.optim.SGD(list(logits.values()), lr=learning_rate, momentum=0.9)
    steps = 0
    for _ in range(epochs):
        for inputs, targets in batches:
            drawn = {}
            for name, logit in logits.items():
                probability = logit.sigmoid()
                # m ~ Bernoulli(sigmoid(v)), with dm/dv = sigmoid'(v)
                mask = (torch.rand(logit.shape, generator=generator).to(logit) < probability).to(logit)
                drawn[name] = weights[name] * (mask + probability - probability.detach())
            optimizer.zero_grad()
            loss(torch.func.functional_call(network, drawn, (inputs,)), targets).backward()
            optimizer.step()
            steps += 1
    if steps == 0:
        raise ValueError("batches: none given, or they cannot be iterated again")
    return {name: logit.detach() for name, logit in logits.items()}


def prune(
    model: nn.Module,
    batches: Batches,
    amount: Amount,
    *,
    train: Train | None = None,
    evaluate: object = None,
    criterion: str = "large_final_same_sign",
    action: str = "rewind",
    generator: torch.Generator | None = None,
) -> nn.Module:
    """The supermasked network: untrained, but for its mask.

    Args:
        model: at its initialization.
        batches: not used; the data is in `train`.
        amount: fraction of each layer's weights to set to zero.
        train: (model, callbacks) -> model; called once, to see where the weights go.
        evaluate: not used.
        criterion: a name of `CRITERIA`.
        action: a name of `ACTIONS`.
        generator: for the actions that draw; the default generator if None.

    Raises:
        ValueError: `amount`, `criterion` or `action` is none of those allowed, no `train`, or a model with nothing to prune.
    """
    sparsity(amount)
    prunable_weights(model)  # refuses what cannot be pruned before it is trained
    for name, given, allowed in (("criterion", criterion, CRITERIA), ("action", action, ACTIONS)):
        if given not in allowed:
            raise ValueError(f"{name}: {given!r} is none of {', '.join(allowed)}")
    final = needed(train)(copy.deepcopy(model), [])
    return masked_initial(model, mask_by(model, final, amount, criterion), action, generator)
