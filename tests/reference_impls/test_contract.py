"""What every implementation promises, checked on all of them: the laws for all, and those of each module's declared traits."""

import ast
import copy
import io
import itertools
import math
import re
import runpy
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn

from reference_impls.core import contract, counting
from reference_impls.core.amounts import NM, Budget, Sparsity, Strength
from reference_impls.core.groups import dependency_groups
from reference_impls.core.masks import prunable_weights
from reference_impls.core.training import Callback, HoldMasks, fit
from reference_impls.zoo import data, networks

ROOT = Path(__file__).parents[2]
MODULES = contract.names()
TOKENS = {"gpt_small", "llama_small"}  # networks that read token sequences; the others see images of 8 x 8
every_module = pytest.mark.parametrize("module", MODULES)


def with_trait(trait):
    return pytest.mark.parametrize("module", [name for name in MODULES if trait in contract.load(name).TRAITS])


@cache
def batches(tokens, seed=0):
    generator = torch.Generator().manual_seed(seed)
    if tokens:
        return data.batches(*data.sequences(16, 16, 32, generator), 8)
    (inputs, targets), _ = data.digits()
    return data.batches(inputs, targets, 32, generator)[:3]


def network(name):
    torch.manual_seed(0)
    return getattr(networks, contract.load(name).NETWORK)()


def batches_for(name, seed=0):
    return batches(contract.load(name).NETWORK in TOKENS, seed)


def amounts_for(name):
    """An ordinary amount of each kind that the module takes."""
    dense = counting.macs(network(name), batches_for(name)[0][0][:1])
    ordinary = {Sparsity: Sparsity(0.5), NM: NM(2, 4), Budget: Budget(macs=0.6 * dense), Strength: Strength(1e-3)}
    return [ordinary[kind] for kind in contract.load(name).AMOUNTS]


def run(name, model=None, amount=None, calibration=None):
    module = contract.load(name)
    torch.manual_seed(1)
    return contract.run(
        module,
        network(name) if model is None else model,
        batches_for(name) if calibration is None else calibration,
        amounts_for(name)[0] if amount is None else amount,
        **getattr(module, "QUICK", {}),
    )


@cache
def outcome(name):
    """What the module makes of its network; shared by the tests that only look at it."""
    return run(name)


def same_state(one, other):
    one, other = one.state_dict(), other.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@every_module
def test_declares_what_it_is(module):
    loaded = contract.load(module)
    assert contract.entry(loaded) in contract.ENTRIES
    assert loaded.UNIT in {"weight", "filter", "channel", "neuron", "head", "layer", "block", "dimension", "token", "kernel", "stripe"}
    assert loaded.GROUP in {"network", "layer", "row"}
    assert loaded.AMOUNTS
    assert set(loaded.AMOUNTS) <= {Sparsity, NM, Budget, Strength}
    assert contract.TRAITS.keys() >= loaded.TRAITS


@every_module
def test_docstring_names_paper_cost_and_deviations_and_is_short_enough_to_read(module):
    source = (ROOT / "reference_impls" / f"{module.replace('.', '/')}.py").read_text()
    text = ast.get_docstring(ast.parse(source))
    first = text.splitlines()[0]
    assert re.search(r"\([a-z]+\d{4}[a-z0-9]+", first), f"{first!r} names no paper"
    for part in ("Idea", "Cost", "Deviations"):
        assert re.search(rf"^{part}\b", text, re.MULTILINE), f"no {part}"
    assert source.count("\n") <= 220
    assert "print(" not in source
    assert "argparse" not in source


@every_module
def test_has_tests_of_its_own_and_a_snippet_of_at_most_fifteen_lines(module):
    folder, name = module.split(".")
    tests = ast.parse((ROOT / "tests/reference_impls" / folder / f"test_{name}.py").read_text())
    assert sum(isinstance(node, ast.FunctionDef) and node.name.startswith("test_") for node in ast.walk(tests)) >= 3
    snippet = (ROOT / "site_src/snippets" / folder / f"{name}.py").read_text()
    assert len(snippet.splitlines()) <= 15
    assert f"reference_impls.{folder}" in snippet


@pytest.mark.claim
@every_module
def test_the_snippet_runs_and_says_something(module, capsys):
    runpy.run_path(str(ROOT / "site_src/snippets" / f"{module.replace('.', '/')}.py"), run_name="__main__")
    said = capsys.readouterr().out.splitlines()
    assert 1 <= len(said) <= 12
    assert any(character.isdigit() for character in "".join(said))


@every_module
def test_the_same_call_gives_the_same_network(module):
    assert same_state(outcome(module), run(module))


@every_module
def test_dtype_is_kept(module):
    calibration = [(x if x.dtype == torch.long else x.double(), y) for x, y in batches_for(module)]
    pruned = run(module, network(module).double(), calibration=calibration)
    assert {tensor.dtype for tensor in pruned.state_dict().values() if tensor.is_floating_point()} == {torch.float64}


@every_module
def test_the_given_model_is_left_as_it_is(module):
    model = network(module)
    model.train()
    before = copy.deepcopy(model)
    run(module, model)
    assert same_state(model, before)
    assert all(part.training for part in model.modules())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())


@every_module
def test_a_frozen_layer_is_untouched(module):
    model = network(module)
    name = list(prunable_weights(model))[1]
    model.get_parameter(name).requires_grad_(False)
    # a network that decides per input stands inside the one that `wrap` gives
    frozen = next(parameter for found, parameter in run(module, model).named_parameters() if f".{found}".endswith(f".{name}"))
    assert not frozen.requires_grad
    assert torch.equal(frozen, model.get_parameter(name))


@pytest.mark.parametrize("module", [name for name in MODULES if contract.load(name).UNIT == "weight"])
def test_tied_weights_stay_tied(module):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16), nn.Linear(16, 10))
    model[5].weight = model[3].weight
    images = batches(False)
    pruned = run(module, model, calibration=images)
    tied = [parameter for parameter in pruned.parameters(recurse=True) if parameter.shape == (16, 16)]
    assert len(tied) == 1, "the shared weight came apart, or was lost"


@pytest.mark.parametrize("amount", [-0.1, 1.0, math.nan, 7.5])
@every_module
def test_an_amount_out_of_range_is_refused(module, amount):
    with pytest.raises(ValueError, match="amount"):
        run(module, amount=amount)


@every_module
def test_an_amount_of_another_kind_is_refused(module):
    taken = contract.load(module).AMOUNTS
    for other in (Sparsity(0.5), NM(2, 4), Budget(bytes=100.0), Strength(0.1)):
        if type(other) not in taken:
            with pytest.raises(ValueError, match="amount"):
                run(module, amount=other)


@pytest.mark.parametrize("module", [name for name in MODULES if NM in contract.load(name).AMOUNTS])
def test_a_pattern_that_does_not_fit_is_refused(module):
    with pytest.raises(ValueError, match="amount: 2:7"):
        run(module, amount=NM(2, 7))


@pytest.mark.parametrize("poison", [math.nan, math.inf])
@every_module
def test_weights_that_are_no_numbers_are_refused(module, poison):
    model = network(module)
    with torch.no_grad():
        next(iter(prunable_weights(model).values())).flatten()[0] = poison
    with pytest.raises(ValueError, match="NaN"):
        run(module, model)


@every_module
def test_a_model_with_nothing_to_prune_is_refused(module):
    with pytest.raises(ValueError, match=r"nothing to prune|no trainable"):
        run(module, network(module).requires_grad_(False))


@every_module
def test_no_data_is_refused_where_data_is_needed(module):
    loaded = contract.load(module)
    try:
        pruned = contract.run(loaded, network(module), [], amounts_for(module)[0], **getattr(loaded, "QUICK", {}))
    except ValueError as error:
        assert "batches" in str(error)  # noqa: PT017 (a method of the weights alone may still need the shape of an input)
    else:
        assert contract.entry(loaded) in ("masks", "prune") and "weights_only" in loaded.TRAITS
        assert isinstance(pruned, nn.Module)


@every_module
def test_something_is_gone_at_an_ordinary_amount(module):
    for amount in amounts_for(module):
        if not isinstance(amount, Strength):
            pruned = run(module, amount=amount)
            if contract.entry(contract.load(module)) == "wrap":
                inputs = batches_for(module)[0][0]
                assert pruned.macs(inputs).float().mean() < counting.macs(network(module), inputs[:1])
            else:
                example = batches_for(module)[0][0][:1]
                dense, now = counting.report(network(module), example), counting.report(pruned, example)
                assert now.weight_sparsity > dense.weight_sparsity or now.macs < dense.macs


@with_trait("exact_count")
def test_exactly_the_asked_number_goes(module):
    loaded, model = contract.load(module), network(module)
    if Sparsity not in loaded.AMOUNTS:
        pattern = NM(2, 4)
        for name, weight in prunable_weights(run(module, amount=pattern)).items():
            if weight.shape[1] % 4 == 0:
                assert (weight.movedim(1, -1).reshape(-1, 4) != 0).sum(1).max() <= 2, name
        return
    for fraction in (0.31, 0.8):
        pruned = run(module, model, amount=Sparsity(fraction))
        if loaded.UNIT == "weight":
            zeros = {name: weight == 0 for name, weight in prunable_weights(pruned).items()}
            if loaded.GROUP == "row":
                wrong = {n: z for n, z in zeros.items() if (z.flatten(1).sum(1) != round(fraction * z[0].numel())).any()}
                assert not wrong
            else:
                parts = [torch.cat([z.flatten() for z in zeros.values()])] if loaded.GROUP == "network" else list(zeros.values())
                assert [int(part.sum()) for part in parts] == [round(fraction * part.numel()) for part in parts]
        else:
            example = batches_for(module)[0][0][:1]
            before = {group.name: group.size for group in dependency_groups(model, example)}
            after = {group.name: group.size for group in dependency_groups(pruned, example)}
            if loaded.GROUP == "network":
                assert sum(after.values()) == sum(before.values()) - round(fraction * sum(before.values()))
            else:
                assert after == {name: size - min(round(fraction * size), size - 1) for name, size in before.items()}


class ZeroSets(Callback):
    """Records after every step which weights are zero; or absent, where a callback shows its masks: a connection may be new and still 0."""

    def __init__(self, callbacks=()):
        self.seen, self.holders = [], [callback for callback in callbacks if hasattr(callback, "masks")]

    def after_step(self, model, optimizer):
        zeros = {name: (weight == 0).clone() for name, weight in prunable_weights(model).items()}
        for holder in self.holders:
            absent = {name: ~mask for name, mask in holder.masks.items()}
            assert all(zeros[name][gone].all() for name, gone in absent.items())
            zeros |= absent
        self.seen.append(zeros)


def watched(name):
    loaded, model = contract.load(name), network(name)
    if contract.entry(loaded) == "callbacks":
        steps = 2 * len(batches_for(name))
        callbacks = loaded.callbacks(model, amounts_for(name)[0], steps=steps, **getattr(loaded, "QUICK", {}))
        spy = ZeroSets(callbacks)
        fit(model, batches_for(name), 2, [*callbacks, spy])
    else:
        pruned = copy.deepcopy(outcome(name)).requires_grad_(True)
        spy = ZeroSets()
        fit(pruned, batches_for(name), 2, [HoldMasks({n: w != 0 for n, w in prunable_weights(pruned).items()}), spy])
    return spy.seen


@with_trait("fixed_mask")
def test_what_is_zero_stays_zero_in_training(module):
    seen = watched(module)
    for earlier, later in itertools.pairwise(seen):
        assert all((later[name] | ~earlier[name]).all() for name in earlier)
    assert any(zero.any() for zero in seen[-1].values())


@with_trait("regrows")
def test_connections_move_and_their_number_stays(module):
    seen = watched(module)
    counts = {tuple(int(zero.sum()) for zero in step.values()) for step in seen}
    assert len(counts) == 1
    assert any((seen[0][name] != seen[-1][name]).any() for name in seen[0])


@with_trait("idempotent")
def test_pruning_again_changes_nothing(module):
    once = outcome(module)
    assert same_state(once, run(module, copy.deepcopy(once)))


@with_trait("identity_at_zero")
def test_asked_for_nothing_it_changes_nothing(module):
    model = network(module)
    if contract.entry(contract.load(module)) == "callbacks":
        plain = fit(copy.deepcopy(model), batches_for(module), 1)
        assert same_state(run(module, model, amount=Sparsity(0.0)), plain)
    else:
        pruned = contract.run(
            contract.load(module), model, batches_for(module), Sparsity(0.0), epochs=0, **getattr(contract.load(module), "QUICK", {})
        )
        assert same_state(pruned, model)


@with_trait("weights_only")
def test_other_data_gives_the_same(module):
    assert same_state(
        contract.run(contract.load(module), network(module), batches_for(module), amounts_for(module)[0], epochs=0),
        contract.run(contract.load(module), network(module), batches_for(module, seed=1), amounts_for(module)[0], epochs=0),
    )


@with_trait("shrinks")
def test_tensors_are_smaller_and_the_network_loads_again(module):
    pruned = outcome(module)
    assert counting.parameters(pruned) < counting.parameters(network(module))
    file = io.BytesIO()
    torch.save(pruned, file)
    file.seek(0)
    again = torch.load(file, weights_only=False)
    example = batches_for(module)[0][0]
    assert {n: p.shape for n, p in again.named_parameters()} == {n: p.shape for n, p in pruned.named_parameters()}
    torch.testing.assert_close(again(example), pruned(example))
