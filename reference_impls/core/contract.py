"""What every implementation promises, so that anything can be run without knowing it.

A module has ONE public entry function of `ENTRIES`, and declares
- ``UNIT``: what it removes (weight, filter, channel, head, layer, dimension, token);
- ``GROUP``: what it compares (network, layer, row);
- ``AMOUNTS``: the kinds of amount it takes, the usual one first;
- ``NETWORK``: the network of `reference_impls.zoo.networks` on which it is shown;
- ``TRAITS``: which laws of `TRAITS` hold;
- ``QUICK``, where a search is long by default: arguments of the entry function for a run of a second or two.
"""

import copy
import importlib
import pkgutil
from collections.abc import Sequence
from types import ModuleType

from torch import nn

import reference_impls
from reference_impls.core.amounts import Amount
from reference_impls.core.masks import masked
from reference_impls.core.training import Batches, Callback, OwnPenalty, accuracy, fit

FOLDERS = ("before_training", "during_training", "after_training", "run_time", "fusion")
ENTRIES = ("masks", "prune", "callbacks", "wrap")
TRAITS = {
    "exact_count": "exactly round(sparsity * n) of each group's n units go",
    "fixed_mask": "what is zero stays zero while the rest trains",
    "regrows": "connections come back, and their number stays the same after each update",
    "idempotent": "pruning the pruned network again by the same amount changes nothing",
    "identity_at_zero": "asked for nothing, it changes nothing",
    "weights_only": "the outcome depends on the weights alone, not on the data",
    "shrinks": "the network that comes out has smaller tensors, and loads again with its shapes",
}


def names() -> list[str]:
    """All implementations, as "folder.module", in order."""
    return [
        f"{folder}.{found.name}"
        for folder in FOLDERS
        for found in pkgutil.iter_modules([f"{path}/{folder}" for path in reference_impls.__path__])
    ]


def load(name: str) -> ModuleType:
    """The module of "folder.module"."""
    return importlib.import_module(f"reference_impls.{name}")


def entry(module: ModuleType) -> str:
    """Which of `ENTRIES` the module has.

    Raises:
        ValueError: none, or more than one.
    """
    found = [name for name in ENTRIES if callable(getattr(module, name, None)) and getattr(module, name).__module__ == module.__name__]
    if len(found) != 1:
        raise ValueError(f"{module.__name__}: has {found or 'none'} of the entry functions {ENTRIES}, where one is needed")
    return found[0]


def run(module: ModuleType, model: nn.Module, batches: Batches, amount: Amount, *, epochs: int = 1, **options: object) -> nn.Module:
    """Prune a copy of the model by any implementation, trained for `epochs` wherever the method trains.

    Args:
        epochs: 0 = a method that prunes and retrains gets its network back untrained.
        options: given to the module's entry function.

    Raises:
        ValueError: as the module's entry function.
    """

    def train(network: nn.Module, callbacks: Sequence[Callback] = ()) -> nn.Module:
        return fit(network, batches, epochs, callbacks) if epochs else network

    kind = entry(module)
    if kind == "masks":
        return masked(model, module.masks(model, batches, amount, **options))
    if kind == "prune":
        return module.prune(model, batches, amount, train=train, evaluate=lambda network: accuracy(network, batches), **options)
    network = copy.deepcopy(model)
    if kind == "callbacks":
        steps = epochs * sum(1 for _ in batches)
        if epochs and not steps:
            raise ValueError("batches: none given, or they cannot be iterated again")
        return fit(network, batches, epochs, module.callbacks(network, amount, steps=steps, **options))
    return fit(module.wrap(network, amount, **options), batches, epochs, [OwnPenalty()])
