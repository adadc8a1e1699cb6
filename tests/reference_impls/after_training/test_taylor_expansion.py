"""Taylor expansion (molchanov2017pruning): by hand, against activations and gradients one example at a time, and by its claim."""

import copy

import pytest
import torch
from torch import nn

from reference_impls.after_training import taylor_expansion
from reference_impls.core.structures import removable_groups
from reference_impls.core.surgery import masked
from reference_impls.core.training import cross_entropy, fit
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import convnet, mlp, resnet8

EXAMPLE = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
TARGETS = torch.tensor([0, 1, 2, 3, 4, 5])
BATCHES = [(EXAMPLE[:4], TARGETS[:4]), (EXAMPLE[4:], TARGETS[4:])]


def net(build):
    model = build(generator=torch.Generator().manual_seed(0)).double()
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.running_mean, module.running_var, module.bias.data):
                tensor.uniform_(0.5, 1.5, generator=generator)
    return model.eval()


def tiny():
    """Two maps, 2 x and -x, read with the factors 1 and 3."""
    model = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.Conv2d(2, 1, 1, bias=False))
    model[0].weight.data = torch.tensor([2.0, -1.0])[:, None, None, None]
    model[1].weight.data = torch.tensor([[1.0, 3.0]])[:, :, None, None]
    return model


def times(outputs, targets):
    return (outputs.flatten(1).sum(1) * targets).mean()


def scores(model, data, **options):
    return taylor_expansion.importance(model, removable_groups(model, data[0][0]), data, **options)


IMAGE = torch.tensor([1.0, 3.0])[None, None, None, :]


def test_by_hand():
    # C = sum over two pixels of z_1 + 3 z_2. Map 1: (2 * 1 + 6 * 1) / 2 = 4; map 2: (-1 * 3 - 3 * 3) / 2 = -6
    model = tiny()
    terms = taylor_expansion.map_terms(model, {model[0]}, IMAGE, torch.tensor([1.0]), times)
    assert terms[model[0]].tolist() == [[4, -6]]
    # |4| and |-6|, divided by their norm sqrt(16 + 36)
    found = scores(tiny(), [(IMAGE, torch.tensor([1.0]))], loss=times)["0"]
    torch.testing.assert_close(found, torch.tensor([4.0, 6.0]) / 52**0.5)
    small = taylor_expansion.prune(tiny(), [(IMAGE, torch.tensor([1.0]))], 0.5, rounds=1, loss=times)
    assert (small[0].weight.item(), small[1].weight.item()) == (-1, 3)


def test_examples_do_not_cancel_but_pixels_do():
    # targets 1 and -1 turn the sign of an example's term: its size is averaged, not its value
    found = scores(tiny(), [(IMAGE.repeat(2, 1, 1, 1), torch.tensor([1.0, -1.0]))], loss=times)["0"]
    torch.testing.assert_close(found, torch.tensor([4.0, 6.0]) / 52**0.5)
    # pixels 1 and -1 of one example do cancel, and of a layer of zeros nothing is NaN
    assert scores(tiny(), [(torch.tensor([1.0, -1.0])[None, None, None], torch.ones(1))], loss=times)["0"].tolist() == [0, 0]


def test_an_example_weighs_the_same_in_a_small_batch_as_in_a_large_one():
    whole, parts = (scores(net(convnet), data) for data in ([(EXAMPLE, TARGETS)], BATCHES))
    for name in whole:
        torch.testing.assert_close(whole[name], parts[name])


def test_same_as_rectified_activations_times_gradients_example_by_example():
    model = net(convnet)
    found = scores(model, BATCHES)
    expected = dict.fromkeys(found, 0)
    for image, target in zip(EXAMPLE, TARGETS, strict=True):
        x, maps = image[None], {}
        for place, layer in enumerate(model.features):
            x = layer(x)
            if isinstance(layer, nn.ReLU):
                x.retain_grad()
                maps[f"features.{place - 2}"] = x
        cross_entropy(model.classifier(x.flatten(1)), target[None]).backward()
        expected = {name: value + (maps[name] * maps[name].grad).mean((0, 2, 3)).abs() for name, value in expected.items()}
    for name, value in expected.items():
        torch.testing.assert_close(found[name], (value / value.square().sum().sqrt()).detach())


def test_maps_that_a_shortcut_adds_have_one_factor():
    model = net(resnet8)
    one = [(EXAMPLE[:1], TARGETS[:1])]
    groups = removable_groups(model, EXAMPLE)
    found = taylor_expansion.importance(model, groups, one)
    for group in groups:
        slopes = []
        for unit in range(group.size):
            losses = []
            for factor in (1 + 1e-5, 1 - 1e-5):
                other = copy.deepcopy(model)
                for member in group.producers:
                    if "running" not in member.tensor and isinstance(other.get_submodule(member.layer), nn.BatchNorm2d):
                        other.get_parameter(member.tensor).data[member.indices(unit)] *= factor
                losses.append(cross_entropy(other(one[0][0]), one[0][1]))
            slopes.append(((losses[0] - losses[1]) / 2e-5).abs().detach())
        expected = torch.stack(slopes)
        torch.testing.assert_close(found[group.name], expected / expected.norm(), rtol=1e-4, atol=1e-6)


def test_classifier_neurons_are_left_alone():
    assert scores(net(convnet), BATCHES).keys() == {"features.0", "features.3", "features.7", "features.10"}
    with pytest.raises(ValueError, match="no filter"):
        taylor_expansion.prune(mlp().double(), BATCHES, 0.5)


@pytest.mark.claim
def test_its_order_is_closer_to_the_true_loss_changes_than_that_of_norms():
    def ranks(values):
        return values.argsort().argsort().double()

    def correlation(one, other):
        return torch.corrcoef(torch.stack([ranks(one), ranks(other)]))[0, 1].item()

    (inputs, targets), _ = digits()
    taylor, norm = [], []
    for seed in range(6):  # with three, one seed decides: their correlations are from four layers of few maps each
        train = batches(inputs, targets, 64, torch.Generator().manual_seed(seed))
        model = fit(convnet(generator=torch.Generator().manual_seed(seed)), train, 2)
        groups = removable_groups(model, inputs[:1])
        found = taylor_expansion.importance(model, groups, train)
        with torch.no_grad():
            dense = cross_entropy(model(inputs), targets)
            for group in groups:
                if group.name in found:  # within a layer: the criterion is normalized there
                    truth = [
                        (cross_entropy(masked(model, [group], {group.name: torch.arange(group.size) != u})(inputs), targets) - dense).abs()
                        for u in range(group.size)
                    ]
                    taylor.append(correlation(found[group.name], torch.stack(truth)))
                    norm.append(correlation(model.get_submodule(group.name).weight.flatten(1).norm(dim=1), torch.stack(truth)))
    assert sum(taylor) / len(taylor) > sum(norm) / len(norm) + 0.2, (taylor, norm)
