"""Dependency groups: which slices of which tensors must go when one unit of a network goes.

A unit is a filter, a channel, a neuron, or an attention head (with grouped queries: one key-value head and its queries).
Removing it takes rows of the layers that produce it, entries of the norms and biases on the way, and columns of the layers that
consume it. Residual sums tie layers together; concatenation shifts indices; flattening repeats them.
"""

import warnings
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._pytree import tree_leaves

from reference_impls.core.couplings import RULES
from reference_impls.core.tracing import Trace


@dataclass(frozen=True, eq=False)
class Member:
    """One dimension of one tensor of a group.

    Attributes:
        tensor: name of the parameter or buffer.
        dim: its dimension.
        units: shape (size of that dimension,), int64; the unit that each index belongs to, -1 for none of this group.
    """

    tensor: str
    dim: int
    units: Tensor

    @property
    def layer(self) -> str:
        return self.tensor.rpartition(".")[0]

    def indices(self, unit: int) -> list[int]:
        """The indices along `dim` that go with `unit`."""
        return (self.units == unit).nonzero().flatten().tolist()


@dataclass(frozen=True, eq=False)
class Group:
    """Units 0 ... size - 1 that can be removed one by one, each with all its slices.

    Attributes:
        name: the first layer that produces the units.
        size: how many units there are.
        producers: slices that make a unit: with them zero, the unit is 0. Filters, biases, norms with their running statistics.
        consumers: slices that read a unit.
        exact: removing equals zeroing the producers. Not so where a mean or variance runs over the units (layer norm).
        attributes: (module, attribute) that count heads; they shrink with the group.
    """

    name: str
    size: int
    producers: tuple[Member, ...]
    consumers: tuple[Member, ...]
    exact: bool
    attributes: tuple[tuple[str, str], ...] = ()

    @property
    def members(self) -> tuple[Member, ...]:
        return self.producers + self.consumers


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    training = [module for module in model.modules() if module.training]
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for module in training:
            module.training = True


def _run(model: nn.Module, inputs: tuple) -> Trace:
    trace = Trace(model, RULES)

    def enter(module: nn.Module, _: tuple) -> None:
        trace.running.append(module)

    def leave(*_: object) -> None:  # what a hook returns would replace the output
        trace.running.pop()

    hooks = [register_module_forward_pre_hook(enter), register_module_forward_hook(leave, always_call=True)]
    try:
        with _evaluating(model), trace:
            outputs = [out for out in tree_leaves(model(*inputs)) if isinstance(out, Tensor)]
    finally:
        for hook in hooks:
            hook.remove()
    if not outputs:
        raise ValueError("model: its output holds no tensor, so what must not be removed is unknown")
    for out in outputs:
        trace.fix(trace.of(out).axes)
    return trace


def _components(count: int, pairs: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    rows, columns = (np.concatenate([[0], *side]) for side in zip(*pairs, strict=True)) if pairs else ([0], [0])
    return connected_components(coo_array((np.ones(len(rows), dtype=bool), (rows, columns)), shape=(count, count)), directed=False)[1]


def dependency_groups(model: nn.Module, *inputs) -> list[Group]:
    """All groups of `model` whose units can be removed, in the order of their first layer.

    The network runs once, in evaluation mode and without gradients; it is left as it was. What the network takes in and gives
    out is in no group. Where an operation cannot be followed, its units are in no group either, and a warning says which.

    Args:
        model: any module of ordinary tensor operations. A module that cuts a dimension into heads names their number or their
            size by an attribute with "head" in its name.
        inputs: one example of what the model is called with; small is enough.

    Raises:
        ValueError: the model's output holds no tensor.
    """
    trace = _run(model, inputs)
    filled = [entry for entry in trace.state if len(entry[2])]
    starts = np.array([labels[0] for _, _, labels in filled], dtype=np.int64)
    index = np.arange(1, 1 + sum(len(labels) for _, _, labels in filled))  # all indices of all tensors, by their labels
    place = np.searchsorted(starts, index, side="right") - 1  # in `filled`
    rooted, producing, inexact = (_marked(trace.count, labels) for labels in (trace.roots, trace.producing, trace.inexact))
    unit = _components(trace.count, trace.joined)
    made = rooted[index] & (unit[index] != unit[0])
    group, number, size = _numbered(trace.count, unit[index[made]], place[made])

    names: dict[int, str] = {}
    members: dict[int, list[tuple[bool, Member]]] = defaultdict(list)
    buffers = {name for name, _ in model.named_buffers()}
    touched = number[unit[index]] >= 0
    for pair in np.unique(place[touched] * trace.count + group[unit[index[touched]]]).tolist():
        entry, g = divmod(pair, trace.count)
        name, dim, labels = filled[entry]
        if g not in names and rooted[labels].any():
            names[g] = _unique(name.removesuffix(".weight"), list(names.values()))
        makes = name in buffers or bool(producing[labels].any())
        members[g].append((makes, Member(name, dim, torch.from_numpy(np.where(group[unit[labels]] == g, number[unit[labels]], -1)))))
    differs = set(group[unit[inexact]].tolist())
    attributes: dict[int, dict[tuple[str, str], None]] = defaultdict(dict)
    for labels, module, attribute in trace.attributes:
        attributes[int(group[unit[labels[0]]])][module, attribute] = None
    _report(trace, rooted)
    return [
        Group(
            name,
            int(size[g]),
            tuple(m for makes, m in members[g] if makes),
            tuple(m for makes, m in members[g] if not makes),
            g not in differs,
            tuple(attributes[g]),
        )
        for g, name in names.items()
    ]


def _numbered(count: int, units: np.ndarray, place: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of every unit the group and its number there, -1 for none, and of every group the size.

    Units that one layer makes belong to one group; they are numbered in the order in which its layers make them.

    Args:
        count: of all units.
        units: those that weights make, in order.
        place: which dimension of which weight makes each of them.
    """
    layers, starts = np.unique(place, return_index=True)
    group = _components(count, [(units[starts][np.searchsorted(layers, place)], units)])
    number, size = np.full(count, -1), np.zeros(count, dtype=np.int64)
    distinct, first = np.unique(units, return_index=True)
    ordered = distinct[np.argsort(first)]
    for g in np.unique(group[ordered]).tolist():
        own = ordered[group[ordered] == g]
        number[own], size[g] = np.arange(len(own)), len(own)
    return group, number, size


def _marked(count: int, labels: list[np.ndarray]) -> np.ndarray:
    marked = np.zeros(count, dtype=bool)
    if labels:
        marked[np.concatenate(labels)] = True
    return marked


def _unique(name: str, earlier: list[str]) -> str:
    """A layer that produces along two dimensions names two groups."""
    return f"{name}:{earlier.count(name)}" if name in earlier else name


def _report(trace: Trace, rooted: np.ndarray) -> None:
    for reason, labels in trace.refused.items():
        touched = np.concatenate(labels)
        touched = touched[rooted[touched]]
        layers = dict.fromkeys(name.rpartition(".")[0] or name for name, _, own in trace.state if np.isin(own, touched).any())
        if layers:
            warnings.warn(f"{reason}: cannot be followed, so units of {', '.join(layers)} stay whole", stacklevel=3)
