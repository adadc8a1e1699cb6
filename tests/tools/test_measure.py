"""What is counted is counted right, what is timed is compared fairly, and lines of other modules stay."""

import json
from types import SimpleNamespace

import pytest
import torch
import typer
from torch import nn

from reference_impls.core import contract
from reference_impls.core.amounts import NM, Budget, Sparsity, Strength
from tools import measure


class Clock:
    """Time that passes only when something is called; every third call is disturbed."""

    def __init__(self):
        self.now = 0.0
        self.calls = 0

    def perf_counter(self):
        return self.now

    def takes(self, seconds):
        def call():
            self.calls += 1
            self.now += seconds * (50 if self.calls % 3 == 0 else 1)

        return call


@pytest.mark.parametrize(("before", "after", "ratio"), [(1.0, 0.5, 0.5), (1.0, 1.0, 1.0), (0.25, 1.0, 4.0)])
def test_a_ratio_is_after_by_before_whatever_else_the_machine_does(monkeypatch, before, after, ratio):
    clock = Clock()
    monkeypatch.setattr(measure, "time", clock)
    assert measure.latency_ratio(clock.takes(before), clock.takes(after), rounds=5) == pytest.approx(ratio)


def test_both_run_equally_often_and_in_turns(monkeypatch):
    monkeypatch.setattr(measure, "time", SimpleNamespace(perf_counter=iter(range(10**6)).__next__))
    said = []
    measure.latency_ratio(lambda: said.append("b"), lambda: said.append("a"), rounds=3)
    timed = "".join(said).removeprefix("bbbaaa")
    assert timed == "ba" * 3 * measure.TURNS


def test_removed_filters_make_everything_smaller():
    size = measure.measure("after_training.pruning_filters", rounds=1)
    assert (size.network, size.amount) == ("resnet8", "sparsity 0.5")
    # half of the filters leave about a quarter of each inner kernel, and nothing at zero
    assert 0.2 < size.parameters_after / size.parameters_before < 0.3
    assert 0.2 < size.macs_after / size.macs_before < 0.3
    assert 0.2 < size.bytes_after / size.bytes_before < 0.3
    assert size.weight_sparsity == 0
    assert size.bytes_before > 4 * size.parameters_before, "buffers count too"


def test_a_mask_alone_makes_nothing_smaller():
    size = measure.measure("before_training.snip", rounds=1)
    # 64 inputs, layers of 300, 100 and 10
    assert size.macs_before == size.macs_after == 64 * 300 + 300 * 100 + 100 * 10
    assert size.parameters_before == size.parameters_after == 64 * 300 + 300 * 100 + 100 * 10 + 300 + 100 + 10
    assert size.bytes_before == size.bytes_after == 4 * size.parameters_before
    assert size.weight_sparsity == 0.5
    assert (size.rounds, size.torch) == (1, torch.__version__)
    assert size.processor == measure.processor() != ""


def test_what_a_network_skips_is_the_mean_over_its_examples():
    class Skips(nn.Module):
        def macs(self, inputs):
            return inputs.sum(1)

    assert measure.macs(Skips(), torch.tensor([[1.0, 2.0], [3.0, 6.0]])) == 6
    assert measure.macs(nn.Linear(3, 5), torch.zeros(4, 3)) == 15


@pytest.mark.parametrize(
    ("kind", "amount", "said"),
    [
        (Sparsity, Sparsity(0.5), "sparsity 0.5"),
        (NM, NM(2, 4), "2:4"),
        (Budget, Budget(macs=120_000), "at most 120,000 multiply-accumulates"),
        (Strength, Strength(1e-3), "strength 0.001"),
    ],
)
def test_an_ordinary_amount_is_of_the_kind_that_the_module_names_first(kind, amount, said):
    module = SimpleNamespace(AMOUNTS=(kind, Sparsity))
    assert measure.ordinary(module, 200_000) == amount
    assert measure.spoken(amount) == said


@pytest.fixture
def file(tmp_path, monkeypatch):
    path = tmp_path / "catalog" / "measurements" / "sizes.jsonl"
    monkeypatch.setattr(measure, "FILE", path)
    monkeypatch.setattr(measure, "ROOT", tmp_path)
    monkeypatch.setattr(measure.contract, "names", lambda: ["run_time.a", "run_time.b", "run_time.c"])
    path.parent.mkdir(parents=True)
    return path


def test_lines_of_others_stay_and_a_module_that_is_gone_or_fails_has_none(file, monkeypatch, capsys):
    def fake(name):
        if name == "run_time.c":
            raise ValueError("model: nothing to prune")
        return SimpleNamespace(model_dump=lambda: {"module": name, "new": True})

    monkeypatch.setattr(measure, "measure", fake)
    file.write_text("".join(json.dumps({"module": f"run_time.{name}"}) + "\n" for name in ("gone", "c", "b")))
    with pytest.raises(typer.Exit) as stopped:
        measure.main(["run_time.a", "run_time.c"])
    assert stopped.value.exit_code == 1
    assert [json.loads(line) for line in file.read_text().splitlines()] == [{"module": "run_time.a", "new": True}, {"module": "run_time.b"}]
    assert "run_time.c: ValueError: model: nothing to prune" in capsys.readouterr().err


def test_an_unknown_module_is_refused_with_what_is_allowed(file, capsys):
    with pytest.raises(typer.Exit) as stopped:
        measure.main(["run_time.d"])
    assert stopped.value.exit_code == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "no module run_time.d; allowed: run_time.a, run_time.b, run_time.c" in said
    assert not file.exists()


def test_every_module_names_a_network_that_can_be_built():
    for name in contract.names():
        assert callable(getattr(measure.networks, contract.load(name).NETWORK))
