"""Calibration: the inputs that layers see, block after block, so that a large network fits in little memory."""

import contextlib
from collections.abc import Callable, Container, Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

from reference_impls.core.masks import prunable_weights
from reference_impls.core.training import Batches, evaluating

Call = tuple[tuple[Tensor, ...], dict[str, object]]  # positional and keyword arguments of one call


class _Reached(Exception):
    """Raised to leave a forward pass once the wanted call is recorded."""


def chain(model: nn.Module) -> list[nn.Module]:
    """The blocks that feed one another: a sequential model's children, else its longest module list, else the model itself."""
    if isinstance(model, nn.Sequential):
        return list(model)
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    return list(max(lists, key=len)) if lists else [model]


@torch.no_grad()
def walk(model: nn.Module, batches: Batches, blocks: Sequence[nn.Module] | None = None) -> Iterator[tuple[nn.Module, list[Call]]]:
    """Each block with the calls it receives, in order. What the caller changes in a block, the next blocks' inputs show.

    The layers of one block all see the inputs of the unpruned block, as in the official codes of Wanda and SparseGPT.

    Args:
        model: in evaluation mode during the walk, in its own mode afterwards.
        batches: calibration data; targets are not used.
        blocks: chained modules, `chain(model)` by default.

    Raises:
        ValueError: no calibration batch, or the first block is never called.
    """
    blocks = chain(model) if blocks is None else blocks
    with evaluating(model):
        calls = _calls_of(model, batches, blocks[0])
        for block in blocks:
            yield block, calls
            calls = [_next_call(block(*args, **kwargs), (args, kwargs)) for args, kwargs in calls]


def _calls_of(model: nn.Module, batches: Batches, block: nn.Module) -> list[Call]:
    """The calls that a block receives; the rest of each forward pass is left out."""
    calls: list[Call] = []

    def record(_: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, object]) -> None:
        calls.append((args, kwargs))
        raise _Reached

    hook = block.register_forward_pre_hook(record, with_kwargs=True)
    try:
        for inputs, _ in batches:
            with contextlib.suppress(_Reached):
                model(inputs)
    finally:
        hook.remove()
    if not calls:
        raise ValueError("batches: no calibration data reaches the model's first block")
    return calls


def _next_call(outputs: Tensor | tuple[Tensor, ...], call: Call) -> Call:
    """The call of the next block: a block's first output is its first argument; masks and positions stay as they are."""
    args, kwargs = call
    hidden = outputs[0] if isinstance(outputs, tuple) else outputs
    if args:
        return (hidden, *args[1:]), kwargs
    return args, {**kwargs, next(iter(kwargs)): hidden}


def prunable_layers(model: nn.Module, block: nn.Module, done: Container[str] = ()) -> dict[str, nn.Module]:
    """Weight name -> layer, for those prunable weights of the model whose layer lies in the block and that are not done yet."""
    layers = {name: model.get_submodule(name.rpartition(".")[0]) for name in prunable_weights(model) if name not in done}
    inside = set(block.modules())
    return {name: layer for name, layer in layers.items() if layer in inside}


@torch.no_grad()
def visit_inputs(block: nn.Module, calls: Iterable[Call], layers: Iterable[nn.Module], visit: Callable[[nn.Module, Tensor], None]) -> None:
    """Run the block on each call, and show `visit` every input of the given layers.

    Raises:
        ValueError: a layer is never called (its weight is used from outside, or not at all), so its inputs are unknown.
    """
    unseen = dict.fromkeys(layers)
    hooks = []

    def see(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        unseen.pop(module, None)
        visit(module, args[0])

    try:
        hooks += [layer.register_forward_pre_hook(see) for layer in unseen]
        for args, kwargs in calls:
            block(*args, **kwargs)
    finally:
        for hook in hooks:
            hook.remove()
    if unseen:
        raise ValueError(f"model: {', '.join(map(repr, unseen))} is never called as a layer, so its inputs are unknown")
