"""DSR (mostafa2019parameter): by hand, its threshold's rule, its constant total, and its claim against a static network."""

import pytest
import torch
from torch import nn

from reference_impls.core.training import Callback, HoldMasks, accuracy, fit
from reference_impls.during_training import dynamic_sparse_reparameterization as dsr
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import lenet_300_100


def test_pruning_by_hand():
    weight = torch.tensor([[-0.3, -0.1, 0.2, -0.05]])
    present = torch.tensor([[True, True, True, False]])
    assert dsr.prune_below(weight, present, 0.2).tolist() == [[True, False, True, False]]  # 0.2 is not below
    # all are below 1: the largest of those present stays; 0.9 is not present
    assert dsr.prune_below(torch.tensor([[0.3, -0.4, 0.2, 0.9]]), present, 1.0).tolist() == [[False, True, False, False]]
    assert not dsr.prune_below(weight, torch.zeros(1, 4, dtype=torch.bool), 0.2).any()


def test_the_threshold_by_hand():
    # target 100, a tenth of tolerance: below 90 it doubles, above 110 it halves
    assert [dsr.adapted(0.01, pruned, 100) for pruned in (0, 89, 90, 110, 111, 500)] == [0.02, 0.02, 0.01, 0.01, 0.005, 0.005]
    assert [dsr.adapted(0.01, pruned, 100, 0.5) for pruned in (50, 150)] == [0.01, 0.01]  # the bounds themselves are within


def layers(*rows):
    model = nn.Sequential(*(nn.Linear(len(row), 1, bias=False) for row in rows))
    for layer, row in zip(model, rows, strict=True):
        layer.weight.data = torch.tensor([row])
    return model


def reallocate(model, masks, **given):
    moving = dsr.Reallocation(masks, **{"fraction": 0.5, "every": 1, "end": 9, "generator": torch.Generator().manual_seed(0), **given})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    moving.start(model, optimizer)
    moving.after_step(model, optimizer)
    return moving, optimizer


def test_a_reallocation_by_hand():
    # threshold 0.5. First layer: 1, 2, 3 survive of 1, 2, 3, 0.1; second: 4 of 4, 0.2, 0.3. K = 3 pruned of 7, R = 3 and 1.
    # Growth 3 * 3/4 = 2.25 and 3 * 1/4 = 0.75: by largest remainder 2 and 1. (By the layers' sizes it would be 1 and 2.)
    model = layers([1.0, 2.0, 3.0, 0.1, 0, 0, 0, 0], [4.0, 0.2, -0.3] + [0] * 13)
    masks = {"0.weight": torch.tensor([[True] * 4 + [False] * 4]), "1.weight": torch.tensor([[True] * 3 + [False] * 13])}
    moving, optimizer = reallocate(model, masks, threshold=0.5)
    first, second = moving.masks["0.weight"], moving.masks["1.weight"]
    assert first[0, :3].all() and not first[0, 3] and int(first[0, 4:].sum()) == 2
    assert second[0, 0] and not second[0, 1:3].any() and int(second[0, 3:].sum()) == 1
    assert model[0].weight.tolist() == [[1, 2, 3, 0, 0, 0, 0, 0]] and model[1].weight.tolist() == [[4] + [0] * 15]
    assert optimizer.state[model[0].weight]["momentum_buffer"].tolist() == [[1, 1, 1, 0, 0, 0, 0, 0]]
    # 3 are within a tenth of half of 7: below 3.15 = 0.9 * 3.5, so it doubles
    assert moving.threshold == 1.0


def test_what_was_just_pruned_does_not_return_while_another_place_is_empty():
    # 0.1 and 0.2 go, and two places are empty: these two, whatever is drawn
    for seed in range(10):
        masks = {"0.weight": torch.tensor([[True] * 4 + [False] * 2])}
        generator = torch.Generator().manual_seed(seed)
        moving, _ = reallocate(layers([1.0, 0.1, 3.0, 0.2, 0.0, 0.0]), masks, threshold=0.5, generator=generator)
        assert moving.masks["0.weight"].tolist() == [[True, False, True, False, True, True]]


def test_a_full_layer_takes_no_more_and_the_pruned_may_return_there():
    # both layers have 3 of 3 places; 1 goes in the first, none in the second: it must come back where it was
    model = layers([1.0, 2.0, 0.1], [4.0, 5.0, 6.0])
    moving, _ = reallocate(model, {f"{place}.weight": torch.ones(1, 3, dtype=torch.bool) for place in (0, 1)}, threshold=0.5)
    assert all(mask.all() for mask in moving.masks.values())
    assert model[0].weight.tolist() == [[1, 2, 0]]


class Watch(Callback):
    def __init__(self, moving):
        self.moving, self.masks, self.thresholds = moving, [], []

    def after_step(self, model, optimizer):
        self.masks.append(dict(self.moving.masks))
        self.thresholds.append(self.moving.threshold)
        for name, mask in self.moving.masks.items():
            assert not model.get_parameter(name)[~mask].any()


def run(steps=60, **given):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 30), nn.ReLU(), nn.Linear(30, 20), nn.ReLU(), nn.Linear(20, 4))
    generator = torch.Generator().manual_seed(3)
    data = [(torch.randn(16, 12, generator=generator), torch.randint(4, (16,), generator=generator)) for _ in range(steps)]
    [moving] = dsr.callbacks(model, 0.7, steps=steps, generator=generator, **given)
    watch = Watch(moving)
    first = {name: int(mask.sum()) for name, mask in moving.masks.items()}
    fit(model, data, 1, [moving, watch])
    return watch, first


def test_layers_begin_equally_dense_and_only_the_total_is_constant():
    watch, first = run(every=4, fraction=0.3, threshold=0.02)
    assert first == {"0.weight": 108, "2.weight": 180, "4.weight": 24}
    counts = [{name: int(mask.sum()) for name, mask in masks.items()} for masks in watch.masks]
    assert {sum(count.values()) for count in counts} == {312}
    assert counts[-1]["2.weight"] < 180 and counts[-1]["4.weight"] > 24


def test_the_threshold_finds_the_target():
    watch, _ = run(steps=100, every=2, fraction=0.2, threshold=1e-4)
    moved = [sum(int((a[n] & ~b[n]).sum()) for n in a) for a, b in zip(watch.masks[-41:], watch.masks[-40:], strict=False)]
    moved = [count for count in moved if count]
    assert 0.5 * 62.4 < sum(moved) / len(moved) < 2 * 62.4  # a fifth of 312, up to the factor that the threshold moves by


def test_connections_move_every_so_often_before_the_end():
    watch, _ = run(steps=20, every=3, end=13, threshold=0.1)
    moved = [any((a[n] != b[n]).any() for n in a) for a, b in zip(watch.masks[:-1], watch.masks[1:], strict=True)]
    assert [step for step, change in enumerate(moved, 2) if change] == [3, 6, 9, 12]
    assert not any(run(steps=20, every=5, end=5, threshold=0.1)[0].thresholds[step] != 0.1 for step in range(20))


def test_defaults_move_often_enough_in_a_short_run_and_every_hundred_steps_in_a_long_one():
    model = nn.Linear(9, 9)
    made = [dsr.callbacks(model, 0.5, steps=steps)[0] for steps in (1, 100, 5000)]
    assert [(moving.every, moving.end) for moving in made] == [(1, 1), (5, 100), (100, 5000)]


@pytest.mark.parametrize("given", [{"fraction": 0.0}, {"fraction": 1.5}, {"threshold": 0.0}, {"every": 0}, {"steps": 0}])
def test_refuses_what_is_out_of_range(given):
    with pytest.raises(ValueError, match=next(iter(given))):
        dsr.callbacks(nn.Linear(9, 9), 0.5, **{"steps": 10, **given})
    dsr.callbacks(nn.Linear(9, 9), 0.5, steps=1, every=1, fraction=1.0)


@pytest.mark.claim
def test_reallocation_beats_a_static_sparse_network_and_gives_the_last_layer_more(monkeypatch):
    train, test = digits()
    right = dsr.prune_below
    for seed in range(3):

        def reach(kind, seed=seed):
            generator = torch.Generator().manual_seed(seed)
            data = batches(*train, 64, generator)
            model = lenet_300_100(generator=generator)
            [moving] = dsr.callbacks(model, 0.98, steps=15 * len(data), fraction=0.3, every=5, generator=generator)
            wrong = lambda weight, mask, threshold: right(1 / (weight + 1e-9), mask, 1 / threshold)  # the largest go
            monkeypatch.setattr(dsr, "prune_below", wrong if kind == "largest go" else right)
            reached = accuracy(fit(model, data, 15, [HoldMasks(moving.masks)] if kind == "static" else [moving]), [test])
            return reached, moving.masks["5.weight"].float().mean().item()

        reached, density = reach("moving")
        assert reached > 0.2 + max(reach("static")[0], reach("largest go")[0])
        assert density > 0.05
