import pytest

from schema.records import Size
from tools.site import sizes, sources

BASE = Size(
    module="after_training.wanda",
    network="lenet_300_100",
    amount="sparsity 0.5",
    parameters_before=100,
    parameters_after=100,
    weight_sparsity=0.5,
    macs_before=100,
    macs_after=100,
    bytes_before=400,
    bytes_after=400,
    latency_ratio=1.0,
    rounds=9,
    date="2026-11-21",
    torch="2.13.0",
    processor="made up",
)


@pytest.mark.parametrize(
    ("module", "change", "needed"),
    [
        ("before_training.snip", {}, sizes.SPARSE_KERNEL),
        ("during_training.sr_ste", {"amount": "2:4"}, sizes.SEMI_STRUCTURED),
        ("after_training.pruning_filters", {"parameters_after": 30, "weight_sparsity": 0.0, "latency_ratio": 0.8}, sizes.NOTHING),
        ("after_training.pruning_filters", {"parameters_after": 30, "weight_sparsity": 0.0, "latency_ratio": 1.3}, sizes.LARGE_LAYERS),
        ("after_training.pruning_filters", {}, sizes.STRUCTURES),
        ("run_time.feature_boosting", {"parameters_after": 110, "weight_sparsity": 0.0}, sizes.SKIPPING),
        ("during_training.network_slimming", {"weight_sparsity": 0.0}, sizes.UNTOUCHED),
    ],
)
def test_what_it_takes_to_gain(module, change, needed):
    assert sizes.needs(BASE.model_copy(update=change), sources.read(module)) == needed
