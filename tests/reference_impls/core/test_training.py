"""Training: the loop against one written out, the order of its hooks, and what it refuses."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from reference_impls.core.training import Callback, HoldMasks, accuracy, cross_entropy, fit, momentum_sgd


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))


def data(count=3):
    generator = torch.Generator().manual_seed(7)
    return [(torch.randn(8, 4, generator=generator), torch.randint(3, (8,), generator=generator)) for _ in range(count)]


def test_one_step_by_hand():
    # y = 2*3 = 6, target 0, loss y^2/2, gradient 6*3 = 18; penalty w^2 adds 2*2 = 4: w = 2 - 0.1 * 22 = -0.2
    class Shrink(Callback):
        def penalty(self, model):
            return (model.weight**2).sum()

    model = nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(2.0)
    batch = [(torch.tensor([[3.0]]), torch.tensor([[0.0]]))]
    half_square = lambda outputs, targets: ((outputs - targets) ** 2).sum() / 2
    fit(model, batch, 1, [Shrink()], optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1), loss=half_square)
    assert model.weight.item() == pytest.approx(-0.2)


def test_equals_a_loop_written_out():
    model, written = network(), network()
    optimizer = torch.optim.SGD(written.parameters(), lr=0.1, momentum=0.9)
    for _ in range(2):
        for inputs, targets in data():
            optimizer.zero_grad()
            F.cross_entropy(written(inputs), targets).backward()
            optimizer.step()
    assert fit(model, data(), 2) is model
    for found, expected in zip(model.parameters(), written.parameters(), strict=True):
        assert torch.equal(found, expected)


def test_hooks_come_in_order():
    class Log(Callback):
        def __init__(self, name):
            self.name = name

        def start(self, model, optimizer):
            assert model.training
            self.weight = model[0].weight.detach().clone()
            log.append((self.name, "start"))

        def penalty(self, model):
            log.append((self.name, "penalty"))
            return 0.0

        def after_backward(self, model, optimizer):
            assert model[0].weight.grad.any()
            assert torch.equal(model[0].weight, self.weight)
            log.append((self.name, "after_backward"))

        def after_step(self, model, optimizer):
            assert not torch.equal(model[0].weight, self.weight)
            self.weight = model[0].weight.detach().clone()
            log.append((self.name, "after_step"))

        def epoch_end(self, model, epoch):
            log.append((self.name, epoch))

        def finish(self, model):
            log.append((self.name, "finish"))
            return nn.Sequential(*model, nn.Identity())

    log = []
    model = fit(network(), data(2), 2, [Log("a"), Log("b")])
    step = ["penalty", "after_backward", "after_step"]
    expected = ["start", *step, *step, 0, *step, *step, 1, "finish"]
    assert log == [(name, event) for event in expected for name in "ab"]
    assert len(model) == 5 and not model.training


def test_what_a_hook_does_to_the_gradient_reaches_the_step():
    class Freeze(Callback):
        def after_backward(self, model, optimizer):
            model[0].weight.grad.zero_()

    model = network()
    before = copy.deepcopy(model)
    fit(model, data(), 1, [Freeze()])
    assert torch.equal(model[0].weight, before[0].weight)
    assert not torch.equal(model[2].weight, before[2].weight)


def test_frozen_parameters_stay():
    model = network()
    model[0].weight.requires_grad_(False)
    before = model[0].weight.clone()
    seen = []
    fit(model, data(), 1, optimizer=lambda parameters: seen.extend(parameters) or momentum_sgd(parameters))
    assert torch.equal(model[0].weight, before) and not any(parameter is model[0].weight for parameter in seen)


def test_held_masks_hold_against_momentum_and_touch_nothing_else():
    mask = torch.rand(6, 4, generator=torch.Generator().manual_seed(0)) > 0.5
    model = network()
    zeros = []

    class Watch(Callback):
        def start(self, model, optimizer):
            zeros.append(bool(model[0].weight[~mask].any()))

        def after_step(self, model, optimizer):
            zeros.append(bool(model[0].weight[~mask].any()))

    fit(model, data(), 3, [HoldMasks({"0.weight": mask}), Watch()])
    assert zeros == [False] * 10
    assert (model[0].weight[mask] != 0).all() and (model[2].weight != 0).all()


@pytest.mark.parametrize("epochs", [0, -1])
def test_refuses_no_epoch(epochs):
    with pytest.raises(ValueError, match="epochs"):
        fit(network(), data(), epochs)


def test_refuses_batches_that_are_none_or_used_up():
    with pytest.raises(ValueError, match="batches"):
        fit(network(), [], 1)
    with pytest.raises(ValueError, match="batches"):
        fit(network(), iter(data()), 2)
    with pytest.raises(ValueError, match="batches"):
        accuracy(network(), [])


def test_cross_entropy_of_images_and_of_sequences_by_hand():
    # scores (0, ln 3): probabilities 1/4 and 3/4; targets 1 and 0: (ln 4/3 + ln 4) / 2
    scores = torch.log(torch.tensor([[1.0, 3.0], [1.0, 3.0]]))
    expected = (torch.log(torch.tensor(4 / 3)) + torch.log(torch.tensor(4.0))) / 2
    torch.testing.assert_close(cross_entropy(scores, torch.tensor([1, 0])), expected)
    torch.testing.assert_close(cross_entropy(scores[None], torch.tensor([[1, 0]])), expected)


def test_accuracy_by_hand():
    # highest at 1, 1, 0 | 1 where all targets are 1: three of four; the mean of the two batches would be 5/6
    batches = [
        (torch.tensor([[0.0, 1.0], [0.0, 1.0], [1.0, 0.0]]), torch.tensor([1, 1, 1])),
        (torch.tensor([[0.0, 1.0]]), torch.tensor([1])),
    ]
    assert accuracy(nn.Identity(), batches) == 0.75


def test_accuracy_is_taken_in_evaluation_mode_and_leaves_every_mode_as_it_was():
    # dropout that drops all would give equal scores, so the first class
    model = nn.Sequential(nn.Dropout(1.0), nn.BatchNorm1d(2).eval())
    assert accuracy(model, [(torch.tensor([[0.0, 1.0]]), torch.tensor([1]))]) == 1
    assert model.training and model[0].training and not model[1].training


def test_accuracy_of_sequences_counts_every_position():
    # (1, 2, 2): scores prefer 0 and 1, targets 0 and 0: one of two
    assert accuracy(nn.Identity(), [(torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]), torch.tensor([[0, 0]]))]) == 0.5
