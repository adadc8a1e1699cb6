"""Measure what every implementation makes of its network, and write `catalog/measurements/sizes.jsonl`: `make measure`.

Each module prunes the network that it names, by an ordinary amount, on three batches of 32 digits or of made-up token sequences.
Counted are parameters, multiply-accumulates and bytes before and after. Timed are forward passes of the dense and of the pruned network in
turns, so that what else the machine does falls on both alike: a round compares the fastest of either, and the median of the rounds is kept.
A module that cannot be measured is named with its error, and keeps no line.
"""

import datetime
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import Progress

from reference_impls.core import contract, counting
from reference_impls.core.amounts import NM, Budget, Sparsity, Strength
from reference_impls.zoo import data, networks
from schema.records import Size

Batches = list[tuple[torch.Tensor, torch.Tensor]]

ROOT = Path(__file__).parents[1]
FILE = ROOT / "catalog" / "measurements" / "sizes.jsonl"
TOKENS = ("gpt_small", "llama_small")
"""Networks that read token sequences; the others see images of 8 x 8."""

ROUNDS = 9
TURNS = 15
PASS_SECONDS = 0.001
"""A timing repeats the forward pass until it lasts about so long: far less than the system lets a process run at a stretch."""


def measure(name: str, rounds: int = ROUNDS) -> Size:
    """One implementation, measured.

    Args:
        name: "folder.module".
        rounds: of timing.

    Raises:
        ValueError: the module cannot prune its network by an ordinary amount.
    """
    module = contract.load(name)
    torch.manual_seed(0)
    dense = getattr(networks, module.NETWORK)().eval()
    batches = calibration(module)
    inputs = batches[0][0]
    amount = ordinary(module, counting.macs(dense, inputs[:1]))
    torch.manual_seed(1)
    pruned = contract.run(module, dense, batches, amount, **getattr(module, "QUICK", {})).eval()
    return Size(
        module=name,
        network=module.NETWORK,
        amount=spoken(amount),
        parameters_before=counting.parameters(dense),
        parameters_after=counting.parameters(pruned),
        weight_sparsity=round(counting.weight_sparsity(pruned), 4),
        macs_before=counting.macs(dense, inputs[:1]),
        macs_after=macs(pruned, inputs),
        bytes_before=counting.bytes_of(dense),
        bytes_after=counting.bytes_of(pruned),
        latency_ratio=round(latency_ratio(lambda: dense(inputs), lambda: pruned(inputs), rounds), 3),
        rounds=rounds,
        date=datetime.date.today().isoformat(),
        torch=torch.__version__,
        processor=processor(),
    )


def calibration(module: ModuleType) -> Batches:
    """Three batches of 32 digits, or two of 8 made-up sequences, as the module's network reads them."""
    generator = torch.Generator().manual_seed(0)
    if module.NETWORK in TOKENS:
        sequences: Batches = data.batches(*data.sequences(16, 16, 32, generator), 8)
        return sequences
    (inputs, targets), _ = data.digits()
    images: Batches = data.batches(inputs, targets, 32, generator)[:3]
    return images


def ordinary(module: ModuleType, macs: int) -> Any:
    """An ordinary amount of the kind that the module usually takes: a half, 2:4, 60 % of the multiply-accumulates, a penalty of 1e-3."""
    amounts = {Sparsity: Sparsity(0.5), NM: NM(2, 4), Budget: Budget(macs=round(0.6 * macs)), Strength: Strength(1e-3)}
    return amounts[module.AMOUNTS[0]]


def spoken(amount: Any) -> str:
    """An amount as the site shows it: `sparsity 0.5`, `2:4`, `at most 116,006 multiply-accumulates`, `strength 0.001`."""
    match amount:
        case Sparsity(fraction):
            return f"sparsity {fraction}"
        case NM(n, m):
            return f"{n}:{m}"
        case Budget(macs):
            return f"at most {macs:,} multiply-accumulates"
        case Strength(factor):
            return f"strength {factor}"
    raise TypeError(f"{amount!r} is no amount")


def macs(model: Any, inputs: torch.Tensor) -> int:
    """Multiply-accumulates per example; the mean over the examples where the network decides for each."""
    if hasattr(model, "macs"):
        with torch.no_grad():
            return round(float(torch.as_tensor(model.macs(inputs), dtype=torch.float64).mean()))
    return int(counting.macs(model, inputs[:1]))


def latency_ratio(before: Callable[[], object], after: Callable[[], object], rounds: int) -> float:
    """Time after by time before: the median over rounds, each the fastest of `TURNS` timings of either, taken in turns."""
    repeats = max(1, round(PASS_SECONDS / max(_seconds(before, 3) / 3, 1e-7)))
    _seconds(after, 3)  # so that neither pays for a first time
    ratios = []
    for _ in range(rounds):
        times = [(_seconds(before, repeats), _seconds(after, repeats)) for _ in range(TURNS)]
        ratios.append(min(later for _, later in times) / min(earlier for earlier, _ in times))
    return statistics.median(ratios)


def _seconds(call: Callable[[], object], repeats: int) -> float:
    with torch.inference_mode():
        started = time.perf_counter()
        for _ in range(repeats):
            call()
        return time.perf_counter() - started


def processor() -> str:
    """Model name of this CPU."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text(encoding="utf-8").splitlines() if information.exists() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def known() -> dict[str, dict[str, Any]]:
    """module -> its line, of the modules that still stand."""
    lines = FILE.read_text(encoding="utf-8").splitlines() if FILE.exists() else []
    standing = set(contract.names())
    return {line["module"]: line for line in map(json.loads, lines) if line["module"] in standing}


def main(modules: Annotated[list[str] | None, typer.Argument(help="folder.module; by default all of them")] = None) -> None:
    """Measure modules; lines of others stay as they are."""
    torch.set_num_threads(1)
    console = Console(stderr=True, highlight=False)
    unknown = set(modules or ()) - set(contract.names())
    if unknown:
        console.print(f"no module {', '.join(sorted(unknown))}; allowed: {', '.join(contract.names())}")
        raise typer.Exit(2)
    lines, failed = known(), []
    with Progress(console=console) as progress:
        task = progress.add_task("Measuring", total=len(modules or contract.names()))
        for name in modules or contract.names():
            progress.update(task, description=name)
            lines.pop(name, None)
            try:
                lines[name] = measure(name).model_dump()
            except Exception as error:  # one broken module must not cost the others their lines
                failed.append(name)
                console.print(f"{name}: {type(error).__name__}: {error}", markup=False)
            progress.advance(task)
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text("".join(f"{json.dumps(lines[name])}\n" for name in sorted(lines)), encoding="utf-8")
    console.print(f"{len(lines)} lines in {FILE.relative_to(ROOT)}; {len(failed)} modules failed")
    raise typer.Exit(1 if failed else 0)


if __name__ == "__main__":
    typer.run(main)
