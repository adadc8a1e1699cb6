"""STR (kusupati2020soft): by hand, as the proximal operator it is, against autograd through a parametrization, and its claim."""

import math

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from reference_impls.core.amounts import Strength
from reference_impls.core.masks import prunable_weights, sparsity_of
from reference_impls.core.training import accuracy, cross_entropy, fit
from reference_impls.during_training import gradual_magnitude, soft_threshold
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import lenet_300_100


def layer(*weights):
    made = nn.Linear(len(weights), 1, bias=False)
    made.weight.data = torch.tensor([weights])
    return made


def test_a_step_by_hand():
    # s = 0 cuts at 0.5: 0.9 and -0.6 become 0.4 and -0.1, the rest 0. Gradients 1, 2, 3, 4; eta 1; lambda 0.1:
    # 0.9 - 1 - 0.09 = -0.19; -0.6 - 2 + 0.06 = -2.54; what was cut only decays, 0.3 - 0.03 = 0.27 and -0.1 + 0.01 = -0.09.
    # s: -g'(0) (1 * 1 + 2 * -1) = 0.25, so s = -0.25; sigmoid(-0.25) = 0.4378, so -2.54 becomes -2.1022 and the others 0
    model = layer(0.9, -0.6, 0.3, -0.1)
    [learned] = soft_threshold.callbacks(model, Strength(0.1), initial=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    learned.start(model, optimizer)
    torch.testing.assert_close(model.weight.data, torch.tensor([[0.4, -0.1, 0, 0]]))
    assert learned.masks["weight"].tolist() == [[True, True, False, False]]
    model.weight.grad = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    learned.after_backward(model, optimizer)
    optimizer.step()
    torch.testing.assert_close(model.weight.data, torch.tensor([[-0.19, -2.54, 0.27, -0.09]]))
    learned.after_step(model, optimizer)
    torch.testing.assert_close(model.weight.data, torch.tensor([[0, -2.1022, 0, 0]]), atol=1e-4, rtol=0)
    assert learned.thresholds["weight"].item() == pytest.approx(-0.25)
    # the second step: gradient 0 moves s by its decay alone, -0.25 + 0.025
    model.weight.grad = None
    learned.after_backward(model, optimizer)
    optimizer.step()
    assert learned.thresholds["weight"].item() == pytest.approx(-0.225)


def test_it_is_the_proximal_operator_of_the_l1_norm():
    # argmin_x (x - w)^2 / 2 + t |x|, by trying a fine grid of x
    weight, score = torch.linspace(-2, 2, 41), torch.tensor(-0.4)
    grid = torch.linspace(-2, 2, 4001)
    cost = (grid - weight[:, None]).square() / 2 + score.sigmoid() * grid.abs()
    torch.testing.assert_close(soft_threshold.soft_threshold(weight, score), grid[cost.argmin(1)], atol=1.5e-3, rtol=0)


class Reparameterized(nn.Module):
    """The same, the usual way: a module in front of the weight, all gradients by autograd."""

    def __init__(self, initial):
        super().__init__()
        self.s = nn.Parameter(torch.tensor(initial))

    def forward(self, weight):
        size = weight.abs() - 1 / (1 + torch.exp(-self.s))
        return torch.where(size > 0, size * torch.sign(weight), 0.0)


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
def test_trains_as_a_reparameterized_network_with_weight_decay_does(optimizer):
    def network():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(36, 4))

    torch.manual_seed(1)
    data = [(torch.randn(16, 1, 5, 5), torch.randint(4, (16,))) for _ in range(12)]
    options = {"lr": 0.05, "momentum": 0.9} if optimizer is torch.optim.SGD else {"lr": 0.05}
    theirs = network()
    for module in (theirs[0], theirs[3]):
        parametrize.register_parametrization(module, "weight", Reparameterized(-2.5))
    decayed = [parameter for name, parameter in theirs.named_parameters() if "bias" not in name]
    plain = [parameter for name, parameter in theirs.named_parameters() if "bias" in name]
    stepper = optimizer([{"params": decayed, "weight_decay": 0.02}, {"params": plain}], **options)
    for inputs, targets in data:
        stepper.zero_grad()
        cross_entropy(theirs(inputs), targets).backward()
        stepper.step()
    ours = network()
    [learned] = soft_threshold.callbacks(ours, Strength(0.02), initial=-2.5)
    fit(ours, data, 1, [learned], optimizer=lambda parameters: optimizer(parameters, **options))
    for index in (0, 3):
        torch.testing.assert_close(ours[index].weight.data, theirs[index].weight.data)
        parts = theirs[index].parametrizations.weight
        torch.testing.assert_close(learned.thresholds[f"{index}.weight"].data, parts[0].s.data)
        torch.testing.assert_close(learned.dense[f"{index}.weight"], parts.original.data)
        assert (ours[index].weight == 0).any()
    assert len({threshold.item() for threshold in learned.thresholds.values()}) == 2


def test_between_steps_the_model_holds_what_is_thresholded_and_its_mask():
    torch.manual_seed(0)
    model = lenet_300_100()
    [learned] = soft_threshold.callbacks(model, Strength(0.03), initial=-4.0)
    fit(model, [(torch.randn(8, 1, 8, 8), torch.randint(10, (8,)))] * 3, 1, [learned])
    for name, weight in prunable_weights(model).items():
        torch.testing.assert_close(weight.data, soft_threshold.soft_threshold(learned.dense[name], learned.thresholds[name]).detach())
        assert torch.equal(learned.masks[name], weight != 0)
        assert 0 < learned.masks[name].float().mean() < 1


def test_more_decay_makes_more_sparsity():
    reached = []
    for strength in (0.0, 0.01, 0.1):
        torch.manual_seed(0)
        model = lenet_300_100()
        [learned] = soft_threshold.callbacks(model, Strength(strength))
        fit(model, [(torch.randn(16, 1, 8, 8), torch.randint(10, (16,))) for _ in range(20)], 1, [learned])
        reached.append(sparsity_of(learned.masks))
    assert reached[0] < reached[1] < reached[2]


def test_starts_where_it_is_told():
    model = layer(1.0, 1.0)
    [learned] = soft_threshold.callbacks(model, Strength(0.0))
    learned.start(model, torch.optim.SGD(model.parameters(), lr=1.0))
    torch.testing.assert_close(model.weight.data, torch.full((1, 2), 1 - 1 / (1 + math.exp(6))))
    for initial in (math.nan, -math.inf):
        with pytest.raises(ValueError, match="initial"):
            soft_threshold.callbacks(model, Strength(0.1), initial=initial)


def test_what_cannot_be_pruned_is_refused_before_training():
    with pytest.raises(ValueError, match="NaN"):
        soft_threshold.callbacks(layer(1.0, torch.nan), Strength(0.1))


@pytest.mark.claim
def test_learned_budgets_beat_equal_ones_when_hardly_anything_is_left():
    # half a per cent of the weights is left; gradual magnitude pruning, with the same sparsity in every layer, is the wrong variant
    train, test = digits()
    for seed in range(3):

        def network(seed=seed):
            generator = torch.Generator().manual_seed(seed)
            return batches(*train, 64, generator), lenet_300_100(generator=generator)

        data, model = network()
        [learned] = soft_threshold.callbacks(model, Strength(0.05))
        fit(model, data, 15, [learned])
        reached = sparsity_of(learned.masks)
        data, equal = network()
        fit(equal, data, 15, gradual_magnitude.callbacks(equal, reached, steps=15 * len(data)))
        densities = [mask.float().mean().item() for mask in learned.masks.values()]
        assert reached > 0.99
        assert densities[2] > 2 * densities[0] > 4 * densities[1]  # the small last layer keeps most
        assert accuracy(model, [test]) > 0.15 + accuracy(equal, [test])
