"""FORCE and Iterative SNIP (dejorge2021progressive): by hand, against real gates, against SNIP, and their claim."""

import itertools

import pytest
import torch
from torch import nn
from torch.func import functional_call

from reference_impls.before_training import force, snip
from reference_impls.core.masks import prunable_weights
from reference_impls.core.training import HoldMasks, accuracy, fit
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import lenet_300_100, mlp


def half_square(output, target):
    return ((output - target) ** 2).sum() / 2


def two_outputs():
    model = nn.Linear(2, 2, bias=False)
    model.weight.data = torch.tensor([[3.0, 2.0], [1.5, 1.2]])
    return model, [(torch.ones(1, 2), torch.tensor([[4.5, 1.2]]))]


def all_kept(model):
    return {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in prunable_weights(model).items()}


def test_by_hand():
    # errors 5 - 4.5 = 0.5 and 2.7 - 1.2 = 1.5: scores |w x e| = (1.5, 1), (2.25, 1.8).
    # Round 1 of 2: density 0.5^(1/2) = 0.71, one weight goes, that of score 1. The first error becomes 3 - 4.5 = -1.5:
    # scores (4.5, 3), (2.25, 1.8), the 3 for the closed gate of weight 2
    model, data = two_outputs()
    torch.testing.assert_close(
        force.foresight_sensitivity(model, all_kept(model), data, loss=half_square)["weight"], torch.tensor([[1.5, 1.0], [2.25, 1.8]])
    )
    kept = {"weight": torch.tensor([[True, False], [True, True]])}
    torch.testing.assert_close(
        force.foresight_sensitivity(model, kept, data, loss=half_square)["weight"], torch.tensor([[4.5, 3.0], [2.25, 1.8]])
    )
    # round 2 keeps two: the pruned weight comes back
    assert force.masks(model, data, 0.5, rounds=2, loss=half_square)["weight"].tolist() == [[True, True], [False, False]]


def test_what_is_pruned_stays_pruned_in_iterative_snip_by_hand():
    # round 2 as above, but the weight with score 3 is gone: 4.5 and 2.25 stay. SNIP in one cut keeps 2.25 and 1.8
    model, data = two_outputs()
    assert force.masks(model, data, 0.5, rounds=2, resurrect=False, loss=half_square)["weight"].tolist() == [[True, False], [True, False]]
    assert force.masks(model, data, 0.5, rounds=1, loss=half_square)["weight"].tolist() == [[False, False], [True, True]]


def test_gradients_are_summed_before_the_absolute_value():
    # errors -2 and 2 for the same input: together nothing is felt; of (1, 0) and (1, 1) only the second input's weight is
    model = nn.Linear(2, 1, bias=False)
    model.weight.data = torch.tensor([[1.0, 1.0]])
    data = [(torch.tensor([[1.0, 0.0]]), torch.tensor([[3.0]])), (torch.tensor([[1.0, 1.0]]), torch.tensor([[0.0]]))]
    scores = force.foresight_sensitivity(model, all_kept(model), data, loss=half_square)
    torch.testing.assert_close(scores["weight"], torch.tensor([[0.0, 2.0]]))


@pytest.mark.parametrize("seed", range(3))
def test_equals_the_derivative_of_real_gates_some_of_them_closed(seed):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 4 * 4, 5)).eval()
    inputs, targets = 3 + torch.randn(7, 1, 6, 6), torch.randint(5, (7,))
    weights = {name: weight.detach() for name, weight in prunable_weights(model).items()}
    kept = {name: torch.rand(weight.shape) < 0.6 for name, weight in weights.items()}
    scores = force.foresight_sensitivity(model, kept, [(inputs, targets)])
    assert not model.training
    gates = {name: mask.float().requires_grad_() for name, mask in kept.items()}
    gated = {name: weight * gates[name] for name, weight in weights.items()}
    loss = nn.functional.cross_entropy(functional_call(model.train(), gated, inputs), targets)  # batch norm with the batch's statistics
    pull = torch.autograd.grad(loss, list(gates.values()))
    for score, mask, expected in zip(scores.values(), kept.values(), pull, strict=True):
        torch.testing.assert_close(score, expected.abs(), atol=1e-6, rtol=1e-4)
        assert (score[~mask] > 0).any()


def made_up(count):
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(32, 64, generator=generator), torch.randint(10, (32,), generator=generator)) for _ in range(count)]


def test_one_round_is_snip():
    model, data = mlp([64, 20, 10], generator=torch.Generator().manual_seed(0)), made_up(2)
    for resurrect in (True, False):
        found = force.masks(model, data, 0.9, rounds=1, resurrect=resurrect)
        assert all(torch.equal(found[name], mask) for name, mask in snip.masks(model, data, 0.9).items())


def test_each_round_keeps_the_same_fraction_and_only_force_lets_weights_back(monkeypatch):
    model, data = mlp([64, 20, 10], generator=torch.Generator().manual_seed(0)), made_up(2)
    seen, real = [], force.foresight_sensitivity

    def watched(model, kept, batches, **options):
        seen.append(torch.cat([mask.flatten() for mask in kept.values()]))
        return real(model, kept, batches, **options)

    monkeypatch.setattr(force, "foresight_sensitivity", watched)
    for resurrect in (True, False):
        seen.clear()
        last = force.masks(model, data, 1 - 0.5**4, rounds=4, resurrect=resurrect)
        seen.append(torch.cat([mask.flatten() for mask in last.values()]))
        assert [int(mask.sum()) for mask in seen] == [1480, 740, 370, 185, 92]  # 1480 / 16 = 92.5, and round(1387.5) = 1388 go
        came_back = [int((later & ~earlier).sum()) for earlier, later in itertools.pairwise(seen)]
        assert (sum(came_back) > 0) == resurrect


class Partly(nn.Module):
    """With a layer that nothing runs through."""

    def __init__(self):
        super().__init__()
        self.used, self.unused = nn.Linear(2, 2), nn.Linear(2, 2)

    def forward(self, x):
        return self.used(x)


def test_a_layer_that_the_loss_does_not_reach_scores_0():
    scores = force.foresight_sensitivity(Partly(), all_kept(Partly()), [(torch.tensor([[1.0, 2.0]]), torch.tensor([0]))])
    assert (scores["unused.weight"] == 0).all()
    assert (scores["used.weight"] > 0).all()


def test_refuses_no_data_and_no_round():
    model = mlp([64, 4, 10])
    with pytest.raises(ValueError, match="batches"):
        force.masks(model, [], 0.5)
    with pytest.raises(ValueError, match="rounds"):
        force.masks(model, made_up(1), 0.5, rounds=0)


@pytest.mark.claim
def test_at_high_sparsities_rounds_find_masks_that_are_felt_and_train_where_one_cut_does_not():
    train, test = digits()
    for seed in range(3):
        data = batches(*train, 64, torch.Generator().manual_seed(seed))
        build = lambda seed=seed: lenet_300_100(generator=torch.Generator().manual_seed(seed))
        masks = {
            "snip": snip.masks(build(), data[:6], 0.995),
            "force": force.masks(build(), data[:6], 0.995),
            "iterative": force.masks(build(), data[:6], 0.995, resurrect=False),
        }
        felt, reached = {}, {}
        for name, kept in masks.items():
            scores = force.foresight_sensitivity(build(), kept, data[:6])
            felt[name] = sum(float(score[kept[key]].sum()) for key, score in scores.items())
            reached[name] = accuracy(fit(build(), data, 6, [HoldMasks(kept)]), [test])
        assert min(felt["force"], felt["iterative"]) > 2 * felt["snip"]
        assert min(reached["force"], reached["iterative"]) > reached["snip"] + 0.2
