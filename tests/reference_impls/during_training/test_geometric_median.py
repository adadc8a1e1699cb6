"""FPGM (he2019filter): by hand, against the authors' own code and a search of the median, what moves zero filters, and its claim."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import nn

from reference_impls.core.masks import keep_units
from reference_impls.core.rounds import made_by_convolutions
from reference_impls.core.soft_filters import filters
from reference_impls.core.structures import removable_groups
from reference_impls.core.surgery import remove
from reference_impls.core.training import Callback, accuracy, fit, momentum_sgd
from reference_impls.during_training import geometric_median
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import convnet, resnet8

ORACLE = np.load(Path(__file__).parents[2] / "oracle" / "fpgm_filters.npz")
IMAGES = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
BATCHES = [(IMAGES, torch.tensor([0, 1, 2, 3]))] * 3


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_by_hand():
    # points (0, 0), (6, 8), (3, 4), (-3, 4): distances 10, 5, 5 | 10, 5, sqrt(81 + 16) | 5, 5, 6 | 5, sqrt(97), 6
    # sums 20, 15 + sqrt 97 = 24.85, 16, 11 + sqrt 97 = 20.85. The third goes first, then the first, whose norm is the smallest
    rows = torch.tensor([[0.0, 0.0], [6.0, 8.0], [3.0, 4.0], [-3.0, 4.0]])
    root = math.sqrt(97)
    torch.testing.assert_close(geometric_median.distance_sums(rows), torch.tensor([20, 15 + root, 16, 11 + root]))
    assert geometric_median.irreplaceable(rows, 0.25).tolist() == [True, True, False, True]
    assert geometric_median.irreplaceable(rows, 0.5).tolist() == [False, True, False, True]
    # by norm the first goes first; of the other three the sums are 5 + root, 11, 6 + root: the third
    assert geometric_median.irreplaceable(rows, 0.5, by_norm=0.25).tolist() == [False, True, False, True]
    # a second by norm, for the tie the third: 5 and 5; nothing is left to distance
    assert geometric_median.irreplaceable(rows, 0.5, by_norm=0.5).tolist() == [False, True, False, True]


def test_distances_are_taken_among_those_that_the_norm_leaves():
    # on a line: 1, 1.1, 9, 10, 14. All sums: 30.1, 29.8, 21.9, 24.9, 36.9; after 1 and 1.1 have gone by norm: 9: 6, 10: 5, 14: 9.
    # With by_norm the fourth goes, and not the third, whose sum over all five is the smallest
    rows = torch.tensor([[1.0], [1.1], [9.0], [10.0], [14.0]])
    assert geometric_median.irreplaceable(rows, 0.6, by_norm=0.4).tolist() == [False, False, True, False, True]
    assert geometric_median.irreplaceable(rows, 0.2).tolist() == [True, True, False, True, True]


@pytest.mark.parametrize(("keep_rate", "distance_rate"), [(1.0, 0.3), (1.0, 0.5), (0.75, 0.25)])
def test_same_filters_as_the_authors_code(keep_rate, distance_rate):
    # their counts are rounded down: int(16 * 0.3) = 4 filters, so ours is asked for 4 / 16
    rows = torch.from_numpy(ORACLE["W"]).flatten(1)
    theirs = ORACLE[f"keep_similar_{keep_rate}_{distance_rate}"].astype(bool)
    if keep_rate < 1:
        theirs &= ORACLE[f"keep_norm_{keep_rate}"].astype(bool)
    ours = geometric_median.irreplaceable(rows, int((~theirs).sum()) / 16, by_norm=1 - keep_rate)
    assert ours.tolist() == theirs.tolist()
    assert (~theirs).sum() == int(16 * distance_rate) + int(16 * (1 - keep_rate))


@pytest.mark.parametrize("seed", range(5))
def test_the_first_to_go_is_as_good_a_median_as_a_filter_can_be(seed):
    # the sum of distances is convex with its minimum at the geometric median, which a search finds; no filter lies lower; where one
    # is put on the median itself, it goes
    rows = torch.randn(9, 3, generator=seeded(seed), dtype=torch.float64)
    total = lambda point: float(np.linalg.norm(rows.numpy() - point, axis=1).sum())
    median = minimize(total, rows.mean(0).numpy(), method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-12, "maxiter": 4000}).x
    sums = [total(row.numpy()) for row in rows]
    assert geometric_median.irreplaceable(rows, 1 / 9).tolist() == [value > min(sums) for value in sums]
    assert total(median) < min(sums)
    among = torch.cat([rows[:4], torch.from_numpy(median)[None], rows[4:]])
    assert (~geometric_median.irreplaceable(among, 0.1)).nonzero().flatten().tolist() == [4]


def test_moving_all_filters_alike_changes_nothing():
    rows = torch.randn(12, 5, generator=seeded())
    shift = torch.tensor([50.0, 0, 0, 0, -9])
    assert torch.equal(geometric_median.irreplaceable(rows, 0.5), geometric_median.irreplaceable(rows + shift, 0.5))


def test_one_filter_always_stays():
    assert int(geometric_median.irreplaceable(torch.randn(4, 3, generator=seeded()), 0.95).sum()) == 1


class Stem(Callback):
    def __init__(self):
        self.weights = []

    def after_step(self, model, optimizer):
        self.weights.append(model.conv1.weight.detach().clone())


def test_zero_filters_get_no_gradient():
    # behind a positive shift one would come: in soft filter pruning they grow
    model = resnet8(generator=seeded())
    model.bn1.bias.data.fill_(1)
    stem = Stem()
    fit(model, BATCHES, 3, [*geometric_median.callbacks(model, 0.5), stem])
    zero = [(weight == 0).flatten(1).all(1).tolist() for weight in stem.weights]
    assert zero[0].count(True) == 4 and all(later == zero[0] for later in zero)
    assert (stem.weights[0] != stem.weights[-1]).any()


def test_the_fraction_of_the_norm_is_checked_and_used():
    for wrong in (-0.1, 0.6, math.nan):
        with pytest.raises(ValueError, match="by_norm"):
            geometric_median.callbacks(resnet8(), 0.5, by_norm=wrong)
    assert geometric_median.callbacks(resnet8(), 0.5, by_norm=0)
    [soft] = geometric_median.callbacks(resnet8(), 0.5, by_norm=0.5)
    rows = torch.tensor([[1.0], [5.0], [6.0], [7.0]])
    assert soft.choose(rows).tolist() == [False, False, True, True]
    assert geometric_median.callbacks(resnet8(), 0.5)[0].choose(rows).tolist() == [True, False, False, True]


def test_weights_that_are_no_numbers_are_refused_before_training():
    model = nn.Sequential(nn.Conv2d(1, 2, 1))
    model[0].weight.data[0] = torch.nan
    with pytest.raises(ValueError, match="NaN"):
        geometric_median.callbacks(model, 0.5)


@pytest.mark.claim
def test_where_all_norms_are_equal_the_nearest_to_the_median_can_go_and_the_farthest_cannot():
    # every filter of a trained network is scaled to norm 1 and its normalization's statistics with it: the network stays the same, and
    # its norms tell nothing. A quarter of each layer's filters goes, nothing is trained afterwards
    (inputs, targets), test = digits()
    near, far = 0.0, 0.0
    for seed in range(3):
        model = convnet((16, 16, 32, 32), generator=seeded(seed))
        fit(model, batches(inputs, targets, 64, seeded(seed)), 4, optimizer=lambda p: momentum_sgd(p, 0.05))
        before = accuracy(model, [test])
        for layer, norm in zip(model.features, list(model.features)[1:], strict=False):
            if isinstance(layer, nn.Conv2d):
                length = layer.weight.data.flatten(1).norm(dim=1)
                layer.weight.data /= length[:, None, None, None]
                layer.bias.data /= length
                norm.running_mean /= length
                norm.running_var /= length**2
        assert accuracy(model, [test]) == pytest.approx(before, abs=0.02)
        groups = made_by_convolutions(model, removable_groups(model, inputs[:1]))
        rows = {group.name: filters(model, group) for group in groups}
        nearest = {name: geometric_median.irreplaceable(each, 0.25) for name, each in rows.items()}
        farthest = {name: keep_units({"": -geometric_median.distance_sums(each)}, 0.25)[""] for name, each in rows.items()}
        near += accuracy(remove(model, groups, nearest), [test]) / 3
        far += accuracy(remove(model, groups, farthest), [test]) / 3
    assert near > far + 0.1
