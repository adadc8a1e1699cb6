"""SNIP-it (verdenius2020pruning): by hand, against the slope on logarithmic scales, and its claim."""

import math

import pytest
import torch
from torch import nn

from reference_impls.before_training import snip, snip_it
from reference_impls.core.training import HoldMasks, accuracy, fit
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import lenet_300_100, mlp


def half_square(output, target):
    return ((output - target) ** 2).sum() / 2


def two_outputs():
    model = nn.Linear(2, 2, bias=False)
    model.weight.data = torch.tensor([[3.0, 2.0], [1.5, 0.6]])
    return model, [(torch.ones(1, 2), torch.tensor([[4.5, 0.6]]))]


def made_up(count):
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(32, 64, generator=generator), torch.randint(10, (32,), generator=generator)) for _ in range(count)]


def test_by_hand():
    # errors 5 - 4.5 = 0.5 and 2.1 - 0.6 = 1.5, loss (0.25 + 2.25) / 2 = 1.25: |w x e| / L = (1.5, 1) / 1.25 and (2.25, 0.9) / 1.25
    model, data = two_outputs()
    torch.testing.assert_close(snip_it.elasticity(model, data, loss=half_square)["weight"], torch.tensor([[1.2, 0.8], [1.8, 0.72]]))
    # sparsities 1/2 and 3/4: 0.72 and 0.8 go; errors 3 - 4.5 = -1.5 and 1.5 - 0.6 = 0.9, so |w x e| = 4.5 and 1.35: the first stays,
    # where one cut would keep the 1.8
    assert snip_it.masks(model, data, 0.75, halvings=0, loss=half_square)["weight"].tolist() == [[True, False], [False, False]]
    assert snip.masks(model, data, 0.75, loss=half_square)["weight"].tolist() == [[False, False], [True, False]]


def test_gradients_and_losses_of_all_batches_are_summed_by_hand():
    # y = 1, loss 1/2, dL/dw = (3, -1); then y = 5, target 6, loss 1/2, dL/dw = (-3, -1): together 1 and (0, -2)
    model = nn.Linear(2, 1, bias=False)
    model.weight.data = torch.tensor([[1.0, 2.0]])
    data = [(torch.tensor([[3.0, -1.0]]), torch.tensor([[0.0]])), (torch.tensor([[3.0, 1.0]]), torch.tensor([[6.0]]))]
    torch.testing.assert_close(snip_it.elasticity(model, data, loss=half_square)["weight"], torch.tensor([[0.0, 4.0]]))


def test_half_goes_first_and_then_half_of_what_is_still_to_go_by_hand():
    # 0.9 - 0.4, 0.9 - 0.4 / 2, 0.9 - 0.4 / 4, 0.9
    assert snip_it.sparsities(0.9, 2) == pytest.approx([0.5, 0.7, 0.8, 0.9])
    assert snip_it.sparsities(0.95, 5) == pytest.approx([0.5, 0.725, 0.8375, 0.89375, 0.921875, 0.9359375, 0.95])
    assert snip_it.sparsities(0.3, 1) == [0.3, 0.3, 0.3]
    assert snip_it.sparsities(0.9, 0)[-1] == 0.9
    with pytest.raises(ValueError, match="halvings"):
        snip_it.sparsities(0.9, -1)


def test_equals_the_slope_of_the_loss_on_logarithmic_scales():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3)).double()
    inputs, targets = 2 + torch.randn(9, 4, dtype=torch.float64), torch.randint(3, (9,))
    scores = snip_it.elasticity(model, [(inputs, targets)])
    assert model.training
    model.eval()

    @torch.no_grad()
    def log_loss(weight, index, factor):
        before = weight.flatten()[index].item()
        weight.view(-1)[index] = before * factor
        value = math.log(nn.functional.cross_entropy(model(inputs), targets).item())
        weight.view(-1)[index] = before
        return value

    for name in ("0.weight", "3.weight"):
        weight, step = model.get_parameter(name).data, 1e-6
        slopes = [(log_loss(weight, i, 1 + step) - log_loss(weight, i, 1 - step)) / (2 * step) for i in range(weight.numel())]
        torch.testing.assert_close(scores[name].flatten(), torch.tensor(slopes, dtype=torch.float64).abs(), atol=1e-7, rtol=1e-5)


def test_what_is_pruned_stays_pruned_and_every_round_is_scored_on_what_is_left(monkeypatch):
    data = made_up(2)
    model = mlp([64, 20, 10], generator=torch.Generator().manual_seed(0))
    seen, real = [], snip_it.elasticity

    def watched(network, batches, **options):
        seen.append(torch.cat([network[1].weight.flatten(), network[3].weight.flatten()]) != 0)
        return real(network, batches, **options)

    monkeypatch.setattr(snip_it, "elasticity", watched)
    last = torch.cat([mask.flatten() for mask in snip_it.masks(model, data, 0.9, halvings=2).values()])
    assert [int(kept.sum()) for kept in [*seen, last]] == [1480, 740, 444, 296, 148]  # sparsities 0.5, 0.7, 0.8, 0.9
    for earlier, later in zip(seen, [*seen[1:], last], strict=True):
        assert not (later & ~earlier).any()


class Partly(nn.Module):
    """With a layer that nothing runs through."""

    def __init__(self):
        super().__init__()
        self.used, self.unused = nn.Linear(2, 2), nn.Linear(2, 2)

    def forward(self, x):
        return self.used(x)


def test_a_layer_that_the_loss_does_not_reach_scores_0():
    scores = snip_it.elasticity(Partly(), [(torch.tensor([[1.0, 2.0]]), torch.tensor([0]))])
    assert (scores["unused.weight"] == 0).all()
    assert (scores["used.weight"] > 0).all()


def test_refuses_no_data():
    with pytest.raises(ValueError, match="batches"):
        snip_it.elasticity(nn.Linear(2, 1), [])


@pytest.mark.claim
def test_a_few_rounds_find_masks_that_train_where_one_cut_does_not():
    train, test = digits()
    for seed in range(3):
        data = batches(*train, 64, torch.Generator().manual_seed(seed))
        build = lambda seed=seed: lenet_300_100(generator=torch.Generator().manual_seed(seed))
        reached = {
            name: accuracy(fit(build(), data, 6, [HoldMasks(masks)]), [test])
            for name, masks in {"rounds": snip_it.masks(build(), data[:6], 0.995), "one cut": snip.masks(build(), data[:6], 0.995)}.items()
        }
        assert reached["rounds"] > reached["one cut"] + 0.15
