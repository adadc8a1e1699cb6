"""Skeletonization (mozer1988skeletonization): by hand, against attentional strengths put in by hand, and by its claim."""

import pytest
import torch
from torch import nn

from reference_impls.after_training import skeletonization
from reference_impls.core.structures import removable_groups
from reference_impls.core.training import accuracy, fit
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import convnet, mlp


def tiny():
    """Hidden units with the values 2 and 3 at x = 1, read with the factors -1 and 4."""
    model = nn.Sequential(nn.Linear(1, 2, bias=False), nn.Linear(2, 1, bias=False))
    model[0].weight.data, model[1].weight.data = torch.tensor([[2.0], [3.0]]), torch.tensor([[-1.0, 4.0]])
    return model


def distance(outputs, targets):
    return (outputs[:, 0] - targets).abs().mean()


def scores(model, data, **options):
    return skeletonization.relevance(model, removable_groups(model, data[0][0]), data, **options)


ONE = torch.ones(1, 1)


def test_by_hand():
    # the output is -2 + 12 = 10, the target 20, E = 10. Without unit 1 the output is 12 and E 8, without unit 2 it is -2 and E 22:
    # the error is linear, so rho is exact: -2 and 12; one batch moves the average from 0 by a fifth: -0.4 and 2.4
    found = scores(tiny(), [(ONE, torch.tensor([20.0]))], loss=distance)["0"]
    torch.testing.assert_close(found, torch.tensor([-0.4, 2.4]))
    # then a target of 0, where the signs are turned: 0.8 * -0.4 + 0.2 * 2 = 0.08 and 0.8 * 2.4 - 0.2 * 12 = -0.48
    found = scores(tiny(), [(ONE, torch.tensor([20.0])), (ONE, torch.tensor([0.0]))], loss=distance)["0"]
    torch.testing.assert_close(found, torch.tensor([0.08, -0.48]))
    small = skeletonization.prune(tiny(), [(ONE, torch.tensor([20.0]))], 0.5, rounds=1, loss=distance)
    assert (small[0].weight.item(), small[1].weight.item()) == (3, 4)


def test_the_linear_error_by_hand():
    # probabilities 1/4 and 3/4: |1 - 1/4| + |0 - 3/4| = 1.5 for the first class, 0.5 for the second; their mean is 1
    outputs = torch.tensor([[0.25, 0.75], [0.25, 0.75]]).log()
    assert skeletonization.linear_error(outputs, torch.tensor([0, 1])).item() == pytest.approx(1)


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Sigmoid])
def test_same_as_the_derivative_by_strengths_in_the_network(activation):
    torch.manual_seed(0)
    first, second, inputs, targets = nn.Linear(4, 5), nn.Linear(5, 3), torch.randn(7, 4), torch.arange(7) % 3
    strength = torch.ones(5, requires_grad=True)
    skeletonization.linear_error(second(activation()(first(inputs)) * strength), targets).backward()
    found = scores(nn.Sequential(first, activation(), second), [(inputs, targets)])["0"]
    torch.testing.assert_close(found, -0.2 * strength.grad)


def test_a_filter_read_through_flattened_maps_counts_all_its_weights():
    model = convnet(generator=torch.Generator().manual_seed(0)).eval()
    images, targets = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2])
    strength = torch.ones(16, requires_grad=True)
    maps = model.features(images) * strength[:, None, None]
    skeletonization.linear_error(model.classifier(maps.flatten(1)), targets).backward()
    torch.testing.assert_close(scores(model, [(images, targets)])["features.10"], -0.2 * strength.grad, rtol=1e-4, atol=1e-7)


@pytest.mark.claim
def test_the_least_relevant_units_are_missed_less_than_the_most_relevant():
    (inputs, targets), (test_inputs, test_targets) = digits()
    test = batches(test_inputs, test_targets, 360)
    least, most = [], []
    for seed in range(3):
        train = batches(inputs, targets, 64, torch.Generator().manual_seed(seed))
        model = fit(mlp((64, 40, 10), generator=torch.Generator().manual_seed(seed)), train, 4)

        def upside_down(outputs, targets):
            return -skeletonization.linear_error(outputs, targets)

        least.append(accuracy(skeletonization.prune(model, train, 0.5), test))
        most.append(accuracy(skeletonization.prune(model, train, 0.5, loss=upside_down), test))
    assert sum(least) / 3 > sum(most) / 3 + 0.1, (least, most)
