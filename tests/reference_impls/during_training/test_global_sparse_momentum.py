"""GSM (ding2019global): by hand, against the authors' update written as a plain loop, how passive weights fade, and its claim."""

import copy
import math

import pytest
import torch
from torch import nn

from reference_impls.core.masks import keep_highest, prunable_weights
from reference_impls.core.training import Callback, accuracy, cross_entropy, fit
from reference_impls.during_training import global_sparse_momentum
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import lenet_300_100


def layer(*weights):
    made = nn.Linear(len(weights), 1, bias=False)
    made.weight.data = torch.tensor([weights])
    return made


def test_a_step_by_hand():
    # |w g| of (-4, -1, 0.5, 3) and (0.1, -2, 5, 0): 0.4, 2, 2.5, 0. Half are active, the second and the third. Gradients with decay 0.1:
    # -0.4 + 0, -0.1 - 2, 0.05 + 5, 0.3 + 0
    model = layer(-4.0, -1.0, 0.5, 3.0)
    [gsm] = global_sparse_momentum.callbacks(model, 0.5, decay=0.1)
    model.weight.grad = torch.tensor([[0.1, -2.0, 5.0, 0.0]])
    assert global_sparse_momentum.active(model, 0.5)["weight"].tolist() == [[False, True, True, False]]
    gsm.after_backward(model, None)
    torch.testing.assert_close(model.weight.grad, torch.tensor([[-0.4, -2.1, 5.05, 0.3]]))
    assert model.weight.tolist() == [[-4.0, -1.0, 0.5, 3.0]]
    # in the end the smallest magnitudes go, whatever their gradients
    assert gsm.finish(model).weight.tolist() == [[-4.0, 0.0, 0.0, 3.0]]


def test_the_weights_of_all_layers_are_ranked_together_and_biases_are_left_alone():
    model = nn.Sequential(nn.Linear(2, 1), nn.Linear(1, 2))
    model[0].weight.data, model[1].weight.data = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0], [4.0]])
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    masks = global_sparse_momentum.active(model, 0.5)
    assert masks["0.weight"].tolist() == [[False, False]] and masks["1.weight"].tolist() == [[True], [True]]
    global_sparse_momentum.SparseMomentum(0.5, 0.5).after_backward(model, None)
    assert model[0].weight.grad.tolist() == [[0.5, 1.0]] and model[1].weight.grad.tolist() == [[2.5], [3.0]]
    assert model[0].bias.grad.tolist() == [1.0] and model[1].bias.grad.tolist() == [1.0, 1.0]


def test_a_weight_that_the_loss_does_not_see_is_passive():
    model = nn.ModuleList([layer(1.0, 1.0), layer(9.0, 9.0)])
    model[0].weight.grad = torch.ones(1, 2)
    global_sparse_momentum.SparseMomentum(0.5, 0.1).after_backward(model, None)
    torch.testing.assert_close(model[0].weight.grad, torch.tensor([[1.1, 1.1]]))
    torch.testing.assert_close(model[1].weight.grad, torch.tensor([[0.9, 0.9]]))
    # where all are active, it still has no gradient
    model[1].weight.grad = None
    global_sparse_momentum.SparseMomentum(0.0, 0.1).after_backward(model, None)
    torch.testing.assert_close(model[1].weight.grad, torch.tensor([[0.9, 0.9]]))


class Kept(Callback):
    """The weights before the last cut."""

    def finish(self, model):
        self.weights = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        return model


@pytest.mark.parametrize("nesterov", [False, True])
def test_five_steps_are_the_authors_update(nesterov):
    # their loop: mask the gradient by a threshold over all weights of two or four dimensions, then a step of an optimizer with weight decay
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))
    theirs = copy.deepcopy(model)
    data = [(torch.randn(8, 1, 4, 4), torch.randint(3, (8,))) for _ in range(5)]
    kept = Kept()
    make = lambda p, **more: torch.optim.SGD(p, 0.1, momentum=0.98, nesterov=nesterov, **more)
    fit(model, data, 1, [kept, *global_sparse_momentum.callbacks(model, 0.75, decay=0.3)], optimizer=make)

    weights = [parameter for parameter in theirs.parameters() if parameter.dim() in (2, 4)]
    others = [parameter for parameter in theirs.parameters() if parameter.dim() not in (2, 4)]
    optimizer = make([{"params": weights, "weight_decay": 0.3}, {"params": others}])
    for inputs, targets in data:
        optimizer.zero_grad()
        cross_entropy(theirs(inputs), targets).backward()
        metric = torch.cat([(w.data * w.grad).abs().flatten() for w in weights])
        threshold = metric.topk(metric.numel() // 4).values[-1]
        for w in weights:
            w.grad *= (w.data * w.grad).abs() >= threshold
        optimizer.step()
    for name, parameter in theirs.named_parameters():
        torch.testing.assert_close(kept.weights[name], parameter.detach(), msg=name)


def test_a_passive_weight_fades_as_decay_and_momentum_say():
    # without momentum: w <- w - 0.1 * 0.5 w = 0.95 w, so 8 * 0.95^3 after three steps; the other weight is always the active one
    model = layer(1.0, 8.0)
    data = [(torch.tensor([[1.0, 0.0]]), torch.zeros(1))] * 3
    kept = Kept()
    plain = lambda p: torch.optim.SGD(p, 0.1)
    fit(
        model,
        data,
        1,
        [kept, *global_sparse_momentum.callbacks(model, 0.5, decay=0.5)],
        optimizer=plain,
        loss=lambda outputs, _: outputs.sum(),
    )
    # the active one: 1 -> 1 - 0.1 (1 + 0.5) = 0.85 -> 0.85 - 0.1 (1 + 0.425) = 0.7075 -> 0.7075 - 0.1 (1 + 0.35375) = 0.572125
    torch.testing.assert_close(kept.weights["weight"], torch.tensor([[0.572125, 8 * 0.95**3]]))


def test_the_decay_is_checked():
    for wrong in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="decay"):
            global_sparse_momentum.callbacks(layer(1.0), 0.5, decay=wrong)
    with pytest.raises(ValueError, match="NaN"):
        global_sparse_momentum.callbacks(layer(torch.nan, 1.0), 0.5)


@pytest.mark.claim
def test_cutting_in_the_end_costs_nothing_for_what_is_cut_has_faded():
    # 98 % of the weights, from a trained network; next to it the same decay on a network all of whose weights get their gradient, and one
    # whose active weights are drawn at random
    (inputs, targets), test = digits()

    class Dense(global_sparse_momentum.SparseMomentum):
        def after_backward(self, model, optimizer):
            for weight in prunable_weights(model).values():
                weight.grad += self.decay * weight.detach()

    class Random(global_sparse_momentum.SparseMomentum):
        def after_backward(self, model, optimizer):
            masks = keep_highest({name: torch.rand_like(weight) for name, weight in prunable_weights(model).items()}, self.fraction)
            for name, weight in prunable_weights(model).items():
                weight.grad = weight.grad * masks[name] + self.decay * weight.detach()

    def reach(kind, seed):
        torch.manual_seed(seed)
        data = batches(inputs, targets, 64, torch.Generator().manual_seed(seed))
        model = fit(lenet_300_100(), data, 4)
        kept = Kept()
        slow = lambda p: torch.optim.SGD(p, 0.02, momentum=0.98)
        fit(model, data, 30, [kept, kind(0.98, 0.01)], optimizer=slow)
        cut = accuracy(model, [test])
        model.load_state_dict(kept.weights)
        return accuracy(model, [test]), cut

    for seed in range(3):
        before, after = reach(global_sparse_momentum.SparseMomentum, seed)
        assert after > 0.9 and abs(after - before) < 0.02
        assert after > 0.2 + max(reach(Dense, seed)[1], reach(Random, seed)[1])
