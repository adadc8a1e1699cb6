"""DPF (lin2020dynamic): by hand, against its recursion written as a plain loop, when masks change, and its claim."""

import copy
import math

import pytest
import torch
from torch import nn

from reference_impls.core.masks import prunable_weights
from reference_impls.core.training import Callback, accuracy, cross_entropy, fit
from reference_impls.during_training import dynamic_pruning_with_feedback
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import lenet_300_100


def layer(*weights):
    made = nn.Linear(len(weights), 1, bias=False)
    made.weight.data = torch.tensor([weights])
    return made


class Watch(Callback):
    def __init__(self, feedback):
        self.feedback, self.seen, self.masks, self.gradients = feedback, [], [], []

    def after_backward(self, model, optimizer):
        self.gradients.append({name: weight.grad.clone() for name, weight in prunable_weights(model).items()})

    def after_step(self, model, optimizer):
        self.seen.append({name: weight.detach().clone() for name, weight in model.named_parameters()})
        self.masks.append({name: mask.clone() for name, mask in self.feedback.masks.items()})


def run(model, data, feedback, learning_rate, **given):
    watch = Watch(feedback)
    fit(model, data, 1, [feedback, watch], optimizer=lambda p: torch.optim.SGD(p, learning_rate), **given)
    return watch


def test_a_weight_cut_too_early_returns_by_hand():
    # w = (3, 2), rate 1, one of two goes after the first step, which takes the last mask. The loss is the output, x = (1, -1): its gradient
    # is (1, -1) whichever weight is absent. Dense: (2, 3), the first goes; (1, 4), (0, 5), (-1, 6)
    model = layer(3.0, 2.0)
    feedback = dynamic_pruning_with_feedback.Feedback(0.5, every=2, last=1)
    watch = run(model, [(torch.tensor([[1.0, -1.0]]), torch.zeros(1))] * 4, feedback, 1.0, loss=lambda outputs, _: outputs.sum())
    assert [each["weight"].tolist() for each in watch.seen] == [[[0, 3]], [[0, 4]], [[0, 5]], [[0, 6]]]
    assert feedback.dense["weight"].tolist() == [[-1, 6]]
    # and where the mask of step 2 follows one of step 0 that cuts nothing yet: sparsity 0.5 - 0.5 * (1 - 2 / 4)^3 = 0.4375 of two is one
    model = layer(3.0, 2.0)
    feedback = dynamic_pruning_with_feedback.Feedback(0.5, every=2, last=4)
    watch = run(model, [(torch.tensor([[1.0, -0.25]]), torch.zeros(1))] * 4, feedback, 1.0, loss=lambda outputs, _: outputs.sum())
    assert [each["weight"].tolist() for each in watch.seen] == [[[2, 2.25]], [[0, 2.5]], [[0, 2.75]], [[0, 3]]]


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 30), nn.ReLU(), nn.Linear(30, 20), nn.ReLU(), nn.Linear(20, 4))


def data(steps):
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(16, 12, generator=generator), torch.randint(4, (16,), generator=generator)) for _ in range(steps)]


def test_forty_steps_are_the_recursion_of_the_paper():
    # w <- w - gamma g(m * w) in a plain loop; masks by a sort of all magnitudes, every fifth step until the thirtieth
    model = network()
    [feedback] = dynamic_pruning_with_feedback.callbacks(model, 0.8, steps=40, every=5)
    loop = copy.deepcopy(model)
    fit(model, data(40), 1, [feedback], optimizer=lambda p: torch.optim.SGD(p, 0.2))

    parameters = {name: parameter.detach().clone() for name, parameter in loop.named_parameters()}
    names = [name for name in parameters if "weight" in name]
    masks = {name: torch.ones_like(parameters[name]) for name in names}
    for step, (inputs, targets) in enumerate(data(40)):
        if 0 < step <= 30 and step % 5 == 0:
            total = sum(parameters[name].numel() for name in names)
            gone = round(total * 0.8 * (1 - (1 - step / 30) ** 3))
            threshold = sorted(torch.cat([parameters[name].abs().flatten() for name in names]).tolist())[gone]
            masks = {name: (parameters[name].abs() >= threshold).float() for name in names}
        pruned = {name: (value * masks.get(name, 1)).requires_grad_() for name, value in parameters.items()}
        cross_entropy(torch.func.functional_call(loop, pruned, inputs), targets).backward()
        parameters = {name: value - 0.2 * pruned[name].grad for name, value in parameters.items()}
    for name, value in parameters.items():
        torch.testing.assert_close(model.get_parameter(name).detach(), value * masks.get(name, 1), msg=name)
    assert sum(int((model.get_parameter(name) == 0).sum()) for name in names) == round(0.8 * (12 * 30 + 30 * 20 + 20 * 4))


def test_masks_change_only_when_they_should_and_weights_return():
    model = network()
    feedback = dynamic_pruning_with_feedback.Feedback(0.8, every=5, last=32)
    watch = run(model, data(40), feedback, 0.5)
    changed = [
        step
        for step in range(2, 41)
        if any(not torch.equal(watch.masks[step - 1][name], watch.masks[step - 2][name]) for name in feedback.masks)
    ]
    assert changed == [5, 10, 15, 20, 25, 30, 32]
    assert any((watch.masks[31][name] & ~watch.masks[24][name]).any() for name in feedback.masks)
    kept = [sum(int(mask.sum()) for mask in masks.values()) for masks in watch.masks]
    assert kept == sorted(kept, reverse=True)
    for seen, masks in zip(watch.seen, watch.masks, strict=True):
        assert not any(seen[name][~mask].any() for name, mask in masks.items())


def test_absent_weights_get_the_gradient_of_the_pruned_network():
    model = network()
    feedback = dynamic_pruning_with_feedback.Feedback(0.8, every=1, last=1)
    watch = run(model, data(3), feedback, 0.5)
    after_two = {name: value.requires_grad_() for name, value in watch.seen[1].items()}
    inputs, targets = data(3)[2]
    cross_entropy(torch.func.functional_call(model, after_two, inputs), targets).backward()
    for name, gradient in watch.gradients[2].items():
        torch.testing.assert_close(gradient, after_two[name].grad)
        assert gradient[~watch.masks[1][name]].any()


def test_a_weight_that_the_loss_does_not_see_only_keeps_its_value():
    model = nn.ModuleDict({"used": layer(1.0, 2.0), "unused": layer(5.0, 0.5)})
    model.forward = model["used"].forward
    feedback = dynamic_pruning_with_feedback.Feedback(0.5, every=1, last=1)
    run(model, [(torch.tensor([[1.0, 1.0]]), torch.zeros(1))] * 3, feedback, 0.1, loss=lambda outputs, _: outputs.sum())
    assert model["unused"].weight.tolist() == [[5.0, 0.0]] and feedback.dense["unused.weight"].tolist() == [[5.0, 0.5]]


@pytest.mark.parametrize("given", [{"steps": 0}, {"every": 0}, {"until": 0.0}, {"until": 1.1}, {"until": math.nan}])
def test_refuses_what_is_out_of_range(given):
    with pytest.raises(ValueError, match=next(iter(given))):
        dynamic_pruning_with_feedback.callbacks(network(), 0.5, **{"steps": 10, **given})
    [feedback] = dynamic_pruning_with_feedback.callbacks(network(), 0.5, steps=1, every=1, until=1)
    assert (feedback.every, feedback.last) == (1, 1)
    [feedback] = dynamic_pruning_with_feedback.callbacks(network(), 0.5, steps=1, until=0.1)
    assert (feedback.every, feedback.last) == (16, 1)
    with pytest.raises(ValueError, match="NaN"):
        dynamic_pruning_with_feedback.callbacks(layer(1.0, math.nan), 0.5, steps=1)


@pytest.mark.claim
def test_a_gradient_taken_at_the_pruned_weights_gives_a_sparse_network_in_one_pass():
    # the wrong variant takes it at the dense weights and prunes in the end: one-shot pruning without retraining.
    # What was seen besides: with momentum 0.9, as here, masking the absent weights' gradient does as well or a point better on the digits;
    # without momentum the feedback gains a point. The paper's gain over methods without feedback is not claimed by this test
    (inputs, targets), test = digits()

    class AtDense(dynamic_pruning_with_feedback.Feedback):
        def after_step(self, model, optimizer):
            super().after_step(model, optimizer)
            self._show(model, self.dense)

        def finish(self, model):
            for name, mask in self._choose().items():
                model.get_parameter(name).data *= mask
            return model

    for seed in range(3):
        reached = {}
        for kind in (dynamic_pruning_with_feedback.Feedback, AtDense):
            data = batches(inputs, targets, 64, torch.Generator().manual_seed(seed))
            model = lenet_300_100(generator=torch.Generator().manual_seed(seed))
            feedback = kind(0.98, 16, round(0.75 * 10 * len(data)))
            reached[kind] = accuracy(fit(model, data, 10, [feedback], optimizer=lambda p: torch.optim.SGD(p, 0.05, momentum=0.9)), [test])
        assert reached[dynamic_pruning_with_feedback.Feedback] > 0.15 + reached[AtDense]
