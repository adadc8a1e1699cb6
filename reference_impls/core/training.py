"""One training loop for every method: what a method adds to training, it adds through a callback."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

from reference_impls.core.masks import Masks, apply_masks

Batches = Iterable[tuple[Tensor, Tensor]]  # (inputs, targets); can be iterated again
Loss = Callable[[Tensor, Tensor], Tensor]  # (outputs, targets) -> scalar
Optimizer = Callable[[list[nn.Parameter]], torch.optim.Optimizer]  # parameters -> optimizer
Train = Callable[..., nn.Module]  # (model, callbacks) -> the model trained; may train it in place


def needed(train: Train | None) -> Train:
    """The training function of a method that trains in between.

    Raises:
        ValueError: none was given.
    """
    if train is None:
        raise ValueError("train: this method trains in between; give train(model, callbacks) -> model")
    return train


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean cross entropy of class scores (..., classes) with targets (...): images and token sequences alike."""
    return nn.functional.cross_entropy(outputs.flatten(0, -2), targets.flatten())


def momentum_sgd(parameters: list[nn.Parameter], learning_rate: float = 0.1) -> torch.optim.Optimizer:
    """Stochastic gradient descent with momentum 0.9, the usual optimizer of pruning papers."""
    return torch.optim.SGD(parameters, lr=learning_rate, momentum=0.9)


class Callback:
    """What a pruning method does while a network trains. Every hook is optional.

    A callback that holds a mask over weights shows it, as it is now, as its attribute `masks`: a weight that is kept may be 0 as well.
    """

    def start(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Before the first step; may parametrize the model or insert modules (and give the optimizer their parameters)."""

    def penalty(self, model: nn.Module) -> Tensor | float:
        """Added to the loss of every batch."""
        return 0.0

    def after_backward(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Between the backward pass and the optimizer's step: gradients may be read and changed."""

    def after_step(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """After the optimizer's step: weights may be changed."""

    def epoch_end(self, model: nn.Module, epoch: int) -> None:
        """After epoch `epoch` (from 0)."""

    def finish(self, model: nn.Module) -> nn.Module:
        """After the last step: the pruned model."""
        return model


class OwnPenalty(Callback):
    """Adds the penalty of the model itself, as a network has that decides per input."""

    def penalty(self, model: nn.Module) -> Tensor | float:
        return model.penalty()


class HoldMasks(Callback):
    """Keep pruned weights at zero while the others train."""

    def __init__(self, masks: Masks) -> None:
        self.masks = masks

    def start(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        apply_masks(model, self.masks)

    def after_step(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        apply_masks(model, self.masks)


def fit(
    model: nn.Module,
    batches: Batches,
    epochs: int,
    callbacks: Sequence[Callback] = (),
    *,
    optimizer: Optimizer = momentum_sgd,
    loss: Loss = cross_entropy,
) -> nn.Module:
    """Train the model in place and return what the callbacks make of it.

    Args:
        batches: iterated once per epoch, in their own order.
        epochs: >= 1.
        optimizer: makes the optimizer from the trainable parameters.

    Raises:
        ValueError: no batch, or `epochs` below 1.
    """
    if epochs < 1:
        raise ValueError(f"epochs: {epochs} is below 1")
    model.train()
    stepper = optimizer([parameter for parameter in model.parameters() if parameter.requires_grad])
    for callback in callbacks:
        callback.start(model, stepper)
    for epoch in range(epochs):
        steps = 0
        for inputs, targets in batches:
            stepper.zero_grad()
            total = loss(model(inputs), targets) + sum(callback.penalty(model) for callback in callbacks)
            total.backward()
            for callback in callbacks:
                callback.after_backward(model, stepper)
            stepper.step()
            for callback in callbacks:
                callback.after_step(model, stepper)
            steps += 1
        if steps == 0:
            raise ValueError("batches: none given, or they cannot be iterated again")
        for callback in callbacks:
            callback.epoch_end(model, epoch)
    for callback in callbacks:
        model = callback.finish(model)
    return model.eval()


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode within; afterwards every module is back in its own mode."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@torch.no_grad()
def accuracy(model: nn.Module, batches: Batches) -> float:
    """The fraction of targets that have the highest score, in [0, 1]; the model is left in its own mode.

    Raises:
        ValueError: no batch.
    """
    with evaluating(model):
        hits = [model(inputs).argmax(-1) == targets for inputs, targets in batches]
    if not hits:
        raise ValueError("batches: none given, or they cannot be iterated again")
    return torch.cat([hit.flatten() for hit in hits]).float().mean().item()
