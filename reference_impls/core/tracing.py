"""One run of a network, seen operation by operation: which indices of its tensors go together.

Every index of every dimension of a parameter gets a label. While the network runs once on real inputs, `Trace` sees each
operation, and the rule for it (`core/couplings.py`) joins labels: a sum joins its operands' channels, a convolution joins its
input channels with the second dimension of its weight. Label 0 means "cannot be removed": inputs, outputs, pixels, tokens, and
everything that an operation without a rule touches. Joining too much or fixing too much is always safe: it only makes units
coarser.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

OPAQUE = (nn.MultiheadAttention, nn.RNNBase)  # their parameters pack several layers and their forward pass checks fixed sizes


class Axis(NamedTuple):
    """One dimension of a tensor in the trace."""

    labels: np.ndarray  # per index; 0 = fixed
    zero: bool = False  # an index whose unit is masked at its producers reads 0 here


class Traced(NamedTuple):
    """A tensor with the labels of its dimensions; `state` where it is a parameter, a buffer, or made of those alone."""

    tensor: Tensor
    axes: tuple[Axis, ...]
    state: bool


class Call(NamedTuple):
    """An operation as a rule sees it: tensors replaced by `Traced`."""

    function: Any
    args: tuple
    kwargs: dict
    operands: list[Traced]
    outputs: list[Tensor]


Axes = tuple[Axis, ...]
Rule = Callable[["Trace", Call], list[Axes]]


def fixed(size: int) -> Axis:
    """A dimension of which nothing can be removed."""
    return Axis(np.zeros(size, dtype=np.int64))


class Trace(TorchDispatchMode):
    """Records, for one run of `model`, which labels are joined and what becomes of them."""

    def __init__(self, model: nn.Module, rules: Mapping[str, Rule]):
        super().__init__()
        self.rules = rules  # by the name of an operation; "pointwise" and "unknown" for all others
        self.count = 1
        self.joined: list[tuple[np.ndarray, np.ndarray]] = []
        self.roots: list[np.ndarray] = []  # made by a weight, as the output of a linear map or an embedding
        self.producing: list[np.ndarray] = []
        self.inexact: list[np.ndarray] = []  # removing differs from masking
        self.attributes: list[tuple[np.ndarray, str, str]] = []
        self.refused: dict[str, list[np.ndarray]] = {}
        self.state: list[tuple[str, int, np.ndarray]] = []  # tensor name, dimension, its labels
        self.running: list[nn.Module] = []
        self._known: dict[int, Traced] = {}
        self._zero: dict[tuple, bool] = {}
        self._names = {module: name for name, module in model.named_modules()}
        opaque = {id(t) for m in model.modules() if isinstance(m, OPAQUE) for t in [*m.parameters(), *m.buffers()]}
        for kind, zero in ((model.named_parameters(), True), (model.named_buffers(), False)):
            for name, tensor in kind:
                if id(tensor) not in opaque:
                    axes = tuple(Axis(self.fresh(size), zero) for size in tensor.shape)
                    self.state += [(name, dim, axis.labels) for dim, axis in enumerate(axes)]
                    self._known[id(tensor)] = Traced(tensor, axes, True)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here, and importing the compiler takes most of a second

    def fresh(self, size: int) -> np.ndarray:
        self.count += size
        return np.arange(self.count - size, self.count)

    def of(self, tensor: Tensor) -> Traced:
        return self._known.get(id(tensor)) or Traced(tensor, tuple(map(fixed, tensor.shape)), False)

    def join(self, one: Axis, other: Axis, zero: bool = False) -> Axis:
        """Indices that stand at the same place go together."""
        if one.labels is not other.labels:
            self.joined.append((one.labels, other.labels))
        return Axis(one.labels, zero)

    def fix(self, axes: Iterable[Axis]) -> None:
        for axis in axes:
            if axis.labels.any():
                self.joined.append((axis.labels, np.zeros_like(axis.labels)))

    def refuse(self, reason: str, axes: Iterable[Axis]) -> None:
        """Fix axes that could have been removed, and remember why."""
        if touched := [axis.labels for axis in axes if axis.labels.any()]:
            self.refused.setdefault(reason, []).extend(touched)
            self.fix(Axis(labels) for labels in touched)

    def produce(self, *operands: Traced | None) -> None:
        for operand in operands:
            if operand is not None and operand.state:
                self.producing += [axis.labels for axis in operand.axes]

    def contract(self, a: Traced, b: Traced, i: int, j: int) -> None:
        """Sum over dimension i of `a` and j of `b`; exact if what is masked reads 0 on the side that is no parameter."""
        axis = self.join(a.axes[i], b.axes[j])
        if not any(x.axes[d].zero and not x.state for x, d in ((a, i), (b, j))):
            self.inexact.append(axis.labels)

    def root(self, operand: Traced, dim: int) -> Axis:
        if operand.state:
            self.roots.append(operand.axes[dim].labels)
            self.producing.append(operand.axes[dim].labels)
        return operand.axes[dim]

    def zero_stays_zero(self, call: Call, zero: tuple[bool, ...]) -> bool:
        """Whether a pointwise operation gives 0 where the operands marked in `zero` are 0, whatever the others are."""
        key = (call.function, zero, repr([replace(part, Traced, lambda _: None) for part in (call.args, call.kwargs)]))
        if key not in self._zero:
            results = []
            for value in (0.37, -1.3):
                places = iter(zero)

                def scalar(x: Traced, value: float = value, places: Any = places) -> Tensor:
                    fill = 0.0 if next(places) else value
                    return torch.tensor(fill > 0 if x.tensor.dtype == torch.bool else fill).to(x.tensor.dtype)

                args, kwargs = replace(call.args, Traced, scalar), replace(call.kwargs, Traced, scalar)
                results.append(call.function(*args, **kwargs))
            self._zero[key] = all(bool(r == 0) for r in results)
        return self._zero[key]

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = function(*args, **(kwargs or {}))
        operands: list[Traced] = []

        def trace(tensor: Tensor) -> Traced:
            operands.append(self.of(tensor))
            return operands[-1]

        args, kwargs = replace(args, Tensor, trace), replace(kwargs or {}, Tensor, trace)
        if any(axis.labels.any() for x in operands for axis in x.axes):
            name = function.overloadpacket.__name__.removesuffix("_")
            rule = self.rules.get(name) or self.rules["pointwise" if torch.Tag.pointwise in function.tags else "unknown"]
            outputs = [out for out in (result if isinstance(result, list | tuple) else [result]) if isinstance(out, Tensor)]
            state = all(x.state for x in operands)
            for out, axes in zip(outputs, rule(self, Call(function, args, kwargs, operands, outputs)), strict=False):
                self._known[id(out)] = Traced(out, axes, state)
        return result

    def split_heads(self, grid: np.ndarray, zero: bool) -> list[Axis]:
        """A dimension cut into (..., heads, size of a head): a unit is a head.

        Cutting names sizes in the forward pass. Only where the running module says by an attribute what it cuts into is it
        known that the forward pass follows a smaller network; all else is refused.
        """
        module = self.running[-1]
        named = {a: v for a, v in vars(module).items() if "head" in a and isinstance(v, int)}
        whole = [a for a in named if not a.endswith(("dim", "size"))]
        places = [d for d in range(grid.ndim - 1) if any(named[a] == grid.shape[d] for a in whole)]
        if not places and any(named[a] == grid.shape[-1] for a in named.keys() - set(whole)):
            places = [grid.ndim - 2]
        if not places:
            self.refuse(f"view of one dimension as {grid.shape} in {type(module).__name__}", [Axis(grid.ravel())])
            return [fixed(size) for size in grid.shape]
        heads = np.moveaxis(grid, places[0], 0).reshape(grid.shape[places[0]], -1)
        self.joined.append((np.repeat(heads[:, 0], heads.shape[1]), heads.ravel()))
        self.attributes += [(heads[:, 0], self._names[module], a) for a in whole if named[a] == len(heads)]
        return [Axis(heads[:, 0], zero) if d == places[0] else fixed(size) for d, size in enumerate(grid.shape)]


def replace(tree: Any, kind: type, change: Callable[[Any], Any]) -> Any:
    """`tree` of lists, tuples and dicts with everything of a kind changed; torch's own pytree takes ten times as long."""
    if isinstance(tree, kind):
        return change(tree)
    if isinstance(tree, list | tuple):
        return [replace(value, kind, change) for value in tree]
    return {key: replace(value, kind, change) for key, value in tree.items()} if isinstance(tree, dict) else tree
