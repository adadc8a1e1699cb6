"""Calibration: the inputs that layers see, block after block, so that a large network fits in little memory."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

from reference_impls.core.training import Batches

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
        model: set to evaluation mode while its first block's inputs are taken.
        batches: calibration data; targets are not used.
        blocks: chained modules, `chain(model)` by default.

    Raises:
        ValueError: no calibration batch.
    """
    blocks = chain(model) if blocks is None else blocks
    calls: list[Call] = []

    def record(_: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, object]) -> None:
        calls.append((args, kwargs))
        raise _Reached

    hook = blocks[0].register_forward_pre_hook(record, with_kwargs=True)
    try:
        for inputs, _ in batches:
            with contextlib.suppress(_Reached):
                model(inputs)
    finally:
        hook.remove()
    if not calls:
        raise ValueError("batches: no calibration data")
    for block in blocks:
        yield block, calls
        outputs = [block(*args, **kwargs) for args, kwargs in calls]
        # a block's first output is the next one's first argument; masks and positions stay as they are
        calls = [
            ((out[0] if isinstance(out, tuple) else out, *args[1:]), kwargs) for out, (args, kwargs) in zip(outputs, calls, strict=True)
        ]


@torch.no_grad()
def visit_inputs(block: nn.Module, calls: Iterable[Call], layers: Iterable[nn.Module], visit: Callable[[nn.Module, Tensor], None]) -> None:
    """Run the block on each call, and show `visit` every input of the given layers."""
    hooks = [layer.register_forward_pre_hook(lambda module, args: visit(module, args[0])) for layer in layers]
    try:
        for args, kwargs in calls:
            block(*args, **kwargs)
    finally:
        for hook in hooks:
            hook.remove()
