"""Optimal Brain Damage (lecun1989optimal): by hand, against exact Hessian diagonals, and against magnitude."""

import pytest
import torch
from torch import nn
from torch.func import functional_call, hessian, jacrev

from reference_impls.after_training import optimal_brain_damage
from reference_impls.core.masks import keep_highest, masked, prunable_weights
from reference_impls.core.training import cross_entropy, fit
from reference_impls.zoo import data, networks


def squared(outputs, targets):
    """The paper's error: squares summed over the outputs, averaged over the patterns."""
    return ((targets - outputs) ** 2).flatten(1).sum(1).mean()


def diagonals(model, inputs, targets, loss):
    """Every weight's exact second derivative, from the full Hessian."""
    weights = {name: weight.detach() for name, weight in prunable_weights(model).items()}
    full = hessian(lambda w: loss(functional_call(model, w, (inputs,)), targets))(weights)
    return {n: full[n][n].reshape(w.numel(), w.numel()).diagonal().view_as(w) for n, w in weights.items()}


def test_by_hand():
    # x = 2 and 0.5; a = 1.5 * 2 + (-4) * 0.5 = 1; y = 3 * tanh(a), E = (t - y)^2
    # d2E/dy2 = 2; for v = 3: 2 tanh(1)^2 = 1.160052; d2E/da2 = f'^2 v^2 2 = (1 - tanh(1)^2)^2 * 9 * 2 = 0.419974^2 * 18 = 3.174811
    # for w: 3.174811 * (4, 0.25) = (12.699245, 0.793703); saliencies h w^2 / 2: (14.286651, 6.349622) and 1.160052 * 9 / 2 = 5.220233
    model = nn.Sequential(nn.Linear(2, 1, bias=False), nn.Tanh(), nn.Linear(1, 1, bias=False))
    model[0].weight.data, model[2].weight.data = torch.tensor([[1.5, -4.0]]), torch.tensor([[3.0]])
    batches = [(torch.tensor([[2.0, 0.5]]), torch.zeros(1, 1))]
    h = optimal_brain_damage.second_derivatives(model, batches, squared)
    torch.testing.assert_close(h["0.weight"], torch.tensor([[12.699245, 0.793703]]))
    torch.testing.assert_close(h["2.weight"], torch.tensor([[1.160052]]))
    s = optimal_brain_damage.saliency(model, batches, squared)
    torch.testing.assert_close(s["0.weight"], torch.tensor([[14.286651, 6.349622]]))
    torch.testing.assert_close(s["2.weight"], torch.tensor([[5.220233]]))
    # one of three goes: the output weight, which by magnitude would be the second to stay
    pruned = optimal_brain_damage.prune(model, batches, 1 / 3, train=lambda m, _: m, rounds=1, loss=squared)
    assert [int((w != 0).sum()) for w in pruned.parameters()] == [2, 1]


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.LeakyReLU(0.3), nn.Identity(), nn.Dropout(0.5)])
def test_exact_diagonal_with_one_hidden_layer_that_does_not_bend(activation):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), activation, nn.Linear(7, 3)).double().eval()
    inputs, targets = torch.randn(10, 5).double(), torch.randn(10, 3).double()
    found = optimal_brain_damage.second_derivatives(model, [(inputs[:4], targets[:4]), (inputs[4:], targets[4:])], squared)
    for name, exact in diagonals(model, inputs, targets, squared).items():
        torch.testing.assert_close(found[name], exact)


def test_exact_diagonal_of_the_output_layer_under_cross_entropy():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    inputs, targets = torch.randn(10, 5).double(), torch.randint(3, (10,))
    found = optimal_brain_damage.second_derivatives(model, [(inputs, targets)])
    torch.testing.assert_close(found["2.weight"], diagonals(model, inputs, targets, cross_entropy)["2.weight"])


@pytest.mark.parametrize("activation", [nn.Tanh(), nn.Sigmoid(), nn.GELU(), nn.SiLU()])
def test_curved_units_drop_the_term_that_may_be_negative(activation):
    # with one hidden layer the Levenberg-Marquardt form is the sum of squared output derivatives, times 2
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), activation, nn.Linear(4, 3)).double()
    inputs, targets = torch.randn(6, 5).double(), torch.randn(6, 3).double()
    weights = {name: weight.detach() for name, weight in prunable_weights(model).items()}
    slopes = jacrev(lambda w: functional_call(model, w, (inputs,)))(weights)
    for name, found in optimal_brain_damage.second_derivatives(model, [(inputs, targets)], squared).items():
        torch.testing.assert_close(found, 2 * slopes[name].square().sum((0, 1)) / 6)
        assert not torch.allclose(found, diagonals(model, inputs, targets, squared)[name]) or name == "2.weight"


def test_a_chain_through_pooling_norm_and_routing_is_squared_link_by_link():
    # one unit wide and one output: nothing is done together, so the form is the squared derivative of each place, summed
    torch.manual_seed(0)
    tail = nn.Sequential(nn.MaxPool2d(2), nn.BatchNorm2d(1), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(2), nn.AvgPool2d(2), nn.Flatten())
    model = nn.Sequential(nn.Conv2d(1, 1, 1), tail, nn.Linear(1, 1)).double().eval()
    tail[1].running_var.fill_(4.0)
    tail[1].bias.data.fill_(3.0)  # keeps the units above zero
    inputs, targets = torch.randn(3, 1, 8, 8).double(), torch.randn(3, 1).double()
    found = optimal_brain_damage.second_derivatives(model, list(zip(inputs.split(1), targets.split(1), strict=True)), squared)
    outputs = []
    model[0].register_forward_hook(lambda *args: outputs.append(args[-1]))
    for x in inputs:
        model(x[None])
    expected = 0
    for x, a in zip(inputs, outputs, strict=True):
        (slope,) = torch.autograd.grad(model[1:](a).sum(), a)  # of the output by each place
        expected += (2 * slope.square() * x.square()).sum() / 3
    torch.testing.assert_close(found["0.weight"].sum(), expected)


def test_a_convolution_sums_the_places_where_a_weight_is_used():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 2, stride=2), nn.Flatten()).double()  # each output uses a weight at one place only
    inputs, targets = torch.randn(4, 2, 4, 4).double(), torch.randn(4, 12).double()
    found = optimal_brain_damage.second_derivatives(model, [(inputs, targets)], squared)
    torch.testing.assert_close(found["0.weight"], diagonals(model, inputs, targets, squared)["0.weight"])


def test_curvature_of_cross_entropy_over_sequences():
    # the loss is the mean over 2 x 3 tokens: d2E/dz2 = p (1 - p) / 6
    outputs = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    p = outputs.softmax(-1)
    found = optimal_brain_damage.output_curvature(outputs, torch.tensor([[0, 1, 2], [3, 0, 1]]), cross_entropy)
    torch.testing.assert_close(found, p * (1 - p) / 6)


def test_a_weight_that_the_loss_does_not_reach_costs_nothing():
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    model[1].unused = nn.Linear(2, 2)
    found = optimal_brain_damage.saliency(model, [(torch.ones(1, 2), torch.zeros(1).long())])
    assert found["1.unused.weight"].tolist() == [[0, 0], [0, 0]]


def test_rounds_look_again_and_deletions_stay():
    torch.manual_seed(0)
    (inputs, targets), _ = data.digits()
    batches, counts = data.batches(inputs[:64], targets[:64], 32), []

    def train(network, callbacks):
        trained = fit(network, batches, 1, callbacks)
        counts.append(sum(int((w == 0).sum()) for w in prunable_weights(trained).values()))
        return trained

    optimal_brain_damage.prune(networks.mlp([64, 8, 10]), batches, 0.75, train=train, rounds=2)
    assert counts == [296, 444]  # half of 592, then half of what is left


def test_refuses_layers_it_cannot_carry_curvature_through_and_missing_data():
    with pytest.raises(ValueError, match="LayerNorm"):
        optimal_brain_damage.saliency(nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)), [(torch.ones(1, 2), torch.zeros(1).long())])
    with pytest.raises(ValueError, match="batches"):
        optimal_brain_damage.saliency(nn.Linear(2, 2), [])
    with pytest.raises(ValueError, match="train"):
        optimal_brain_damage.prune(nn.Linear(2, 2), [(torch.ones(1, 2), torch.zeros(1).long())], 0.5)


def test_saliency_sees_through_a_change_of_scale_that_magnitude_takes_for_importance():
    # ReLU(10 a) / 10 = ReLU(a): the same network, and the same saliencies
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)).double()
    batches = [(torch.randn(6, 5).double(), torch.randint(3, (6,)))]
    before = optimal_brain_damage.saliency(model, batches)
    with torch.no_grad():
        model[0].weight.mul_(10)
        model[0].bias.mul_(10)
        model[2].weight.div_(10)
    for name, after in optimal_brain_damage.saliency(model, batches).items():
        torch.testing.assert_close(after, before[name])


@pytest.mark.claim
def test_deleting_by_saliency_raises_the_loss_less_than_deleting_by_magnitude():
    (inputs, targets), _ = data.digits()
    rises = torch.zeros(3)
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        batches = data.batches(inputs, targets, 64, generator)
        model = fit(networks.lenet_300_100(generator=generator), batches, 15)
        magnitude = {name: weight.detach().abs() for name, weight in prunable_weights(model).items()}
        curvature = optimal_brain_damage.second_derivatives(model, batches)
        with torch.no_grad():
            for place, scores in enumerate((optimal_brain_damage.saliency(model, batches), magnitude, curvature)):
                pruned = masked(model, keep_highest(scores, 0.8))
                rises[place] += cross_entropy(pruned(inputs), targets) - cross_entropy(model(inputs), targets)
    assert rises[0] < 0.8 * rises[1], rises
    assert rises[0] < 0.2 * rises[2], rises
