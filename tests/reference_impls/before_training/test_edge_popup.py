"""edge-popup (ramanujan2020hidden): by hand, against a straight-through estimator by autograd, and its claim."""

import math

import pytest
import torch
from torch import nn
from torch.func import functional_call

from reference_impls.before_training import edge_popup
from reference_impls.core.masks import prunable_weights
from reference_impls.core.training import accuracy, fit
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import mlp


def half_square(output, target):
    return ((output - target) ** 2).sum() / 2


def made_up(count, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(32, 64, generator=generator, dtype=dtype), torch.randint(10, (32,), generator=generator)) for _ in range(count)]


def test_by_hand():
    # w = (2, -3), s = (0.1, -0.2): the second edge is present, y = -3 for x = (1, 1), t = 0, and dL/dw = (-3, -3);
    # ds = sign(s) w dL/dw = (2 * -3, -1 * -3 * -3) = (-6, -9); step 0.05: s = (0.1 + 0.3, -0.2 + 0.45) = (0.4, 0.25)
    model = nn.Linear(2, 1, bias=False)
    model.weight.data = torch.tensor([[2.0, -3.0]])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    (popup,) = edge_popup.callbacks(model, 0.5, steps=1, signed_constants=False)
    popup.start(model, optimizer)
    popup.scores["weight"].data = torch.tensor([[0.1, -0.2]])
    popup.after_step(model, optimizer)
    assert model.weight.tolist() == [[0, -3]]
    half_square(model(torch.ones(1, 2)), torch.zeros(1, 1)).backward()
    popup.after_backward(model, optimizer)
    optimizer.step()
    popup.after_step(model, optimizer)
    torch.testing.assert_close(popup.scores["weight"].data, torch.tensor([[0.4, 0.25]]))
    # the first edge has popped up, with the weight that it always had
    assert model.weight.tolist() == [[2, 0]]
    assert popup.masks["weight"].tolist() == [[True, False]]


def test_signed_constants_by_hand():
    # a kernel (1 output, 2 inputs, 1 x 2): fan-in 4, sqrt(2 / 4); a quarter of the inputs: sqrt(2 / 1)
    weight = torch.tensor([[[[0.1, -3.0]], [[-0.5, 2.0]]]])
    signs = torch.tensor([[[[1.0, -1.0]], [[-1.0, 1.0]]]])
    torch.testing.assert_close(edge_popup.signed_constant(weight), signs * math.sqrt(0.5))
    torch.testing.assert_close(edge_popup.signed_constant(weight, 0.25), signs * math.sqrt(2))


def small_task():
    model = mlp([64, 12, 10], generator=torch.Generator().manual_seed(0)).double()
    data = made_up(3, torch.float64)
    return model, data


def test_equals_a_straight_through_estimator():
    # forward h(s), backward as if it were |s|, by autograd on the scores, with the same optimizer
    model, data = small_task()
    weights = {name: edge_popup.signed_constant(weight.detach(), 0.3) for name, weight in prunable_weights(model).items()}
    biases = {name: bias.detach().clone() for name, bias in model.named_parameters() if name.endswith("bias")}
    generator = torch.Generator().manual_seed(5)
    scores = {}
    for name, weight in weights.items():
        bound = 1 / math.sqrt(weight.shape[1])
        drawn = torch.empty(weight.shape, dtype=torch.float64).uniform_(-bound, bound, generator=generator)
        scores[name] = drawn.requires_grad_()
    optimizer = torch.optim.SGD(scores.values(), lr=0.1, momentum=0.9)

    def subnetwork():
        used = {}
        for name, score in scores.items():
            absent = score.detach().abs().flatten().argsort()[: round(0.7 * score.numel())]
            chosen = torch.ones(score.numel(), dtype=torch.float64)
            chosen[absent] = 0
            used[name] = weights[name] * (chosen.view_as(score) + score.abs() - score.detach().abs())
        return used

    reference = mlp([64, 12, 10]).double()
    for inputs, targets in data * 2:
        optimizer.zero_grad()
        nn.functional.cross_entropy(functional_call(reference, subnetwork() | biases, (inputs,)), targets).backward()
        optimizer.step()
    popups = edge_popup.callbacks(model, 0.7, steps=6, scaled=True, generator=torch.Generator().manual_seed(5))
    trained = fit(model, data, 2, popups)
    for name, used in subnetwork().items():
        torch.testing.assert_close(popups[0].scores[name].detach(), scores[name].detach())
        torch.testing.assert_close(trained.get_parameter(name).detach(), used.detach())
        assert int((used == 0).sum()) == round(0.7 * used.numel())
    assert all(torch.equal(trained.get_parameter(name), bias) for name, bias in biases.items())


@pytest.mark.parametrize("signed_constants", [True, False])
def test_weights_are_never_trained_only_left_out(signed_constants):
    model, data = small_task()
    before = {name: weight.detach().clone() for name, weight in prunable_weights(model).items()}
    trained = fit(model, data, 2, edge_popup.callbacks(model, 0.4, steps=6, signed_constants=signed_constants))
    for name, weight in prunable_weights(trained).items():
        fixed = before[name].sign() * math.sqrt(2 / weight.shape[1]) if signed_constants else before[name]
        torch.testing.assert_close(weight.detach(), torch.where(weight == 0, 0, fixed))
        assert int((weight == 0).sum()) == round(0.4 * weight.numel())


def test_a_layer_that_the_loss_does_not_reach_keeps_its_scores():
    model = nn.ModuleDict({"used": nn.Linear(2, 2), "unused": nn.Linear(2, 2)})
    model.forward = lambda x: model["used"](x)
    (popup,) = edge_popup.callbacks(model, 0.5, steps=1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    popup.start(model, optimizer)
    before = {name: score.detach().clone() for name, score in popup.scores.items()}
    model(torch.ones(1, 2)).sum().backward()
    popup.after_backward(model, optimizer)
    optimizer.step()
    assert torch.equal(popup.scores["unused.weight"], before["unused.weight"])
    assert not torch.equal(popup.scores["used.weight"], before["used.weight"])


def test_a_model_without_weights_is_refused_before_training_starts():
    with pytest.raises(ValueError, match="no trainable"):
        edge_popup.callbacks(nn.Linear(2, 2).requires_grad_(False), 0.5, steps=1)


@pytest.mark.claim
def test_a_wide_random_network_holds_one_as_good_as_the_trained():
    # the paper: the wider the random network, the closer its best part comes to the trained dense network
    train, test = digits()
    gaps = {16: [], 256: []}
    for seed in range(3):
        data = batches(*train, 64, torch.Generator().manual_seed(seed))
        for width, found in gaps.items():
            build = lambda width=width, seed=seed: mlp([64, width, width, 10], generator=torch.Generator().manual_seed(seed))
            dense = accuracy(fit(build(), data, 5), [test])
            popups = edge_popup.callbacks(build(), 0.5, steps=0, generator=torch.Generator().manual_seed(seed))
            found.append(dense - accuracy(fit(build(), data, 5, popups), [test]))
            if width == 256:
                untouched = build()
                popups[0].start(untouched, torch.optim.SGD(untouched.parameters(), lr=0.1))
                assert accuracy(untouched, [test]) < 0.3  # the same weights, with edges chosen at random
    assert max(gaps[256]) < 0.06
    assert all(narrow > wide + 0.05 for narrow, wide in zip(gaps[16], gaps[256], strict=True))
