"""C-SGD (ding2019centripetal): by hand, by the closed form of what holds a cluster apart, and by merging equal filters without loss."""

import copy
import warnings
from functools import partial

import pytest
import torch
from torch import nn

from reference_impls.after_training import centripetal_sgd as csgd
from reference_impls.core import counting
from reference_impls.core.groups import Member
from reference_impls.core.training import accuracy, fit, momentum_sgd
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import convnet, densenet_small, mlp, mobilenet_small, resnet8, vit_small

EXAMPLE = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
BATCHES = [(EXAMPLE, torch.tensor([0, 1, 2, 3]))]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def sorted_out(model, fraction=0.5, **options):
    callback = csgd.callbacks(model, fraction, **options)[0]
    callback.sort(model, EXAMPLE)
    return callback


def test_the_gradient_by_hand():
    # filters (1, 0) and (3, 0) form a cluster with centre (2, 0), their gradients (1, 1) and (3, 5) have the mean (2, 3); epsilon = 0.1
    # (2, 3) + 0.1 * (1 - 2, 0) = (1.9, 3); (2, 3) + 0.1 * (3 - 2, 0) = (2.1, 3); alone: (7, 7) + 0.1 * (0, 0)
    found = csgd.centripetal_gradient(
        torch.tensor([[1.0, 1.0], [3.0, 5.0], [7.0, 7.0]]),
        torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 5.0]]),
        torch.tensor([[0.5, 0.5, 0.0], [0.5, 0.5, 0.0], [0.0, 0.0, 1.0]]),
        dim=0,
        strength=0.1,
    )
    torch.testing.assert_close(found, torch.tensor([[1.9, 3.0], [2.1, 3.0], [7.0, 7.0]]))
    # along the other dimension of the transposed tensors, the same transposed
    turned = csgd.centripetal_gradient(
        torch.tensor([[1.0, 3.0, 7.0], [1.0, 5.0, 7.0]]),
        torch.tensor([[1.0, 3.0, 0.0], [0.0, 0.0, 5.0]]),
        torch.tensor([[0.5, 0.5, 0.0], [0.5, 0.5, 0.0], [0.0, 0.0, 1.0]]),
        dim=1,
        strength=0.1,
    )
    torch.testing.assert_close(turned, found.T)


def test_indices_stand_for_each_other_at_the_same_place_of_their_units():
    # units 0, 1, 2 with two indices each, 0 and 2 in a cluster; two indices of no unit
    member = Member("weight", 0, torch.tensor([0, 0, 1, 1, 2, 2, -1, -1]))
    found = csgd.alike(member, torch.tensor([0, 1, 0]))
    pairs = [(i, j) for i in range(8) for j in range(8) if found[i, j] and i != j]
    assert pairs == [(0, 4), (1, 5), (4, 0), (5, 1)]
    assert found.diagonal().all()


def test_clusters_are_the_nearest_filters_and_exactly_as_many_as_asked():
    filters = torch.tensor([[0.0, 0.0], [5.0, 5.0], [0.1, 0.0], [5.0, 5.1], [9.0, 0.0]])[:, :, None]
    labels = csgd.cluster(filters, 3).tolist()
    assert labels[0] == labels[2]
    assert labels[1] == labels[3]
    assert len(set(labels)) == 3
    assert csgd.cluster(filters, 5).tolist() == [0, 1, 2, 3, 4]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # k-means says that it finds two different filters only
        labels = csgd.cluster(torch.tensor([[1.0], [1.0], [1.0], [2.0]]), 3).tolist()
    assert set(labels) == {0, 1, 2}
    assert labels.count(labels[3]) == 1


def test_by_hand_of_equal_filters_one_stays_and_the_columns_add_up():
    # filters 1, 4, 1: the third equals the first and goes; columns 2, 3, 5 become 2 + 5 = 7 and 3
    model = nn.Sequential(nn.Conv2d(1, 3, 1, bias=False), nn.ReLU(), nn.Conv2d(3, 1, 1, bias=False))
    model[0].weight.data = torch.tensor([1.0, 4.0, 1.0])[:, None, None, None]
    model[2].weight.data = torch.tensor([2.0, 3.0, 5.0])[None, :, None, None]
    callback = csgd.callbacks(model, 0.3)[0]
    callback.sort(model, torch.ones(1, 1, 2, 2))
    small = callback.finish(model)
    assert small[0].weight.flatten().tolist() == [1.0, 4.0]
    assert small[2].weight.flatten().tolist() == [7.0, 3.0]
    assert model[2].weight.flatten().tolist() == [2.0, 3.0, 5.0]


@pytest.mark.parametrize("build", [resnet8, convnet, mobilenet_small, densenet_small])
def test_whatever_the_loss_says_what_holds_a_cluster_apart_shrinks_by_the_same_factor(build):
    # the mean gradient moves all members alike, so F_j - centre becomes (1 - rate * epsilon) of itself; a tenth of epsilon for scales
    model = build(generator=seeded())
    callback = sorted_out(model, strength=2.0)
    before = copy.deepcopy(model)
    callback.start = lambda *_: None
    callback.finish = lambda model: model
    fit(model, BATCHES, 3, [callback], optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.05))
    apart = 0
    for name, dim, averaging, strength in callback.averaging:
        old, new = before.get_parameter(name), model.get_parameter(name)
        own = averaging.sum(1) - averaging.diagonal() > 0  # not alone, in whatever group
        is_scale = name.endswith("weight") and old.dim() == 1
        assert strength == (0.2 if is_scale else 2.0)
        expected = (1 - 0.05 * strength) ** 3 * (old - csgd.mix(averaging, old, dim))
        torch.testing.assert_close(new - csgd.mix(averaging, new, dim), expected, rtol=1e-4, atol=1e-6)
        assert not torch.equal(new, old)
        apart += int(own.sum())
    assert apart > 10


@pytest.mark.parametrize("build", [resnet8, convnet, mobilenet_small, densenet_small])
def test_equal_filters_merge_without_loss(build):
    model = build(generator=seeded())
    generator = seeded(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.running_mean, module.running_var, module.bias.data):
                tensor.uniform_(0.5, 1.5, generator=generator)
    callback = sorted_out(model.eval())
    tensors = dict([*model.named_parameters(), *model.named_buffers()])
    for group in callback.groups:
        for member in group.producers:
            same = csgd.alike(member, callback.clusters[group.name]).float()
            tensors[member.tensor].data = csgd.mix(same / same.sum(1, keepdim=True), tensors[member.tensor].data, member.dim)
    small = callback.finish(model)
    torch.testing.assert_close(small(EXAMPLE), model(EXAMPLE), rtol=1e-4, atol=1e-5)
    assert counting.macs(small, EXAMPLE) < 0.8 * counting.macs(model, EXAMPLE)


def test_the_projection_of_a_shortcut_decides_its_clusters():
    model = resnet8(generator=seeded())
    callback = sorted_out(model, 0.25)
    weight = model.blocks[1].shortcut[0].weight
    assert torch.equal(callback.clusters["blocks.1.conv2"], csgd.cluster(weight, 12))
    assert torch.equal(callback.clusters["conv1"], csgd.cluster(model.conv1.weight, 6))


def test_a_generator_draws_the_seed_of_the_clusters():
    drawn = [int(torch.randint(2**31, (), generator=seeded(seed))) for seed in range(3)]
    assert [csgd.callbacks(resnet8(), 0.5, generator=seeded(seed))[0].seed for seed in range(3)] == drawn
    assert csgd.callbacks(resnet8(), 0.5)[0].seed == 0


def test_one_filter_of_each_layer_stays():
    # round(0.99 * 8) = 8, and 8 - 1 = 7 go
    small = fit(model := convnet(generator=seeded()), BATCHES, 1, csgd.callbacks(model, 0.99))
    assert [small.features[i].out_channels for i in (0, 3, 7, 10)] == [1, 1, 1, 1]


def test_filters_that_a_grouped_convolution_reads_are_left_alone():
    # its columns belong to some of its filters only, so they cannot be added up
    model = nn.Sequential(nn.Conv2d(1, 4, 1), nn.Conv2d(4, 4, 1, groups=2), nn.Conv2d(4, 2, 1), nn.Conv2d(2, 1, 1), nn.Flatten())
    callback = csgd.callbacks(model, 0.5)[0]
    callback.sort(model, EXAMPLE)
    assert "0" not in callback.clusters
    assert "2" in callback.clusters


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="strength"):
        csgd.callbacks(resnet8(), 0.5, strength=-0.1)
    assert csgd.callbacks(resnet8(), 0.5, strength=0.0)[0].strength == 0
    model = resnet8()
    model.conv1.weight.data[0, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="NaN"):
        csgd.callbacks(model, 0.5)
    for build in (mlp, vit_small):  # no filters; filters that a layer norm reads
        with pytest.raises(ValueError, match="nothing to prune"):
            sorted_out(build())


def test_no_hook_is_left_and_the_layers_that_are_asked_are_pruned():
    model = convnet(generator=seeded())
    small = fit(model, BATCHES, 1, csgd.callbacks(model, 0.05))
    assert [small.features[i].out_channels for i in (0, 3, 7, 10)] == [8, 8, 15, 15]
    assert not model._forward_pre_hooks


@pytest.mark.claim
def test_drawn_together_filters_merge_without_loss_where_similar_ones_do_not():
    # half of each layer's filters go at the cut, no fine-tuning; the same clusters and the same steps without the pull to their centres
    (inputs, targets), (test_inputs, test_targets) = digits()
    test = batches(test_inputs, test_targets, 360)
    optimizer = partial(momentum_sgd, learning_rate=0.02)
    seen = {2.0: [], 0.0: []}
    for seed in range(3):
        train = batches(inputs, targets, 64, seeded(seed))
        model = fit(convnet(generator=seeded(seed)), train, 3, optimizer=optimizer)
        for strength, results in seen.items():
            trained = copy.deepcopy(model)
            small = fit(trained, train, 8, csgd.callbacks(trained, 0.5, strength=strength), optimizer=optimizer)
            results.append(torch.tensor([accuracy(model, test), accuracy(trained, test), accuracy(small, test)]))
    (dense, before, after), (_, _, worse) = (sum(results) / 3 for results in seen.values())
    assert abs(after - before) < 0.01
    assert after > dense - 0.03
    assert after > worse + 0.3
