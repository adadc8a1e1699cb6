"""Counts per example, and steps that train."""

import torch
from torch import nn

from reference_impls.core import counting
from reference_impls.core.per_input import dense, macs_per_example, straight_through
from reference_impls.zoo.networks import resnet8


def test_straight_through_has_the_value_of_the_one_and_the_gradient_of_the_other():
    logits = torch.tensor([-1.0, 0.5], requires_grad=True)
    soft = logits.sigmoid()
    gate = straight_through((logits > 0).float(), soft)
    assert gate.tolist() == [0.0, 1.0]
    gate.sum().backward()
    torch.testing.assert_close(logits.grad, (soft * (1 - soft)).detach())


def test_a_network_that_computes_everything_costs_what_the_counter_of_networks_says():
    model, inputs = resnet8(), torch.randn(3, 1, 8, 8)
    counts = macs_per_example(model, inputs, lambda layer, _, outputs: dense(layer, outputs))
    assert counts.tolist() == [counting.macs(model, inputs[:1])] * 3


def test_costs_per_example_are_added_and_nothing_is_left_behind():
    # linear 2 -> 3 costs an example 6 where its first input is positive, else nothing; linear 3 -> 1 costs 3
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1)).train()

    def cost(layer, inputs, outputs):
        return dense(layer, outputs) * (inputs[:, 0] > 0) if layer is model[0] else dense(layer, outputs)

    assert macs_per_example(model, torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), cost).tolist() == [9, 3]
    assert model.training
    assert not any(layer._forward_hooks for layer in model)
