"""PFEC (li2017pruning): by hand, against torch's ln_structured and Torch-Pruning, and by its rule for shortcuts."""

import copy

import pytest
import torch
import torch_pruning
from torch import nn
from torch.nn.utils import prune as torch_prune

from reference_impls.after_training import pruning_filters
from reference_impls.core import counting, surgery
from reference_impls.core.structures import removable_groups
from reference_impls.core.training import accuracy, fit
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import convnet, densenet_small, mobilenet_small, resnet8

EXAMPLE = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
BATCHES = [(EXAMPLE, torch.tensor([0, 1]))]


def net(build=resnet8, seed=0):
    """With normalization statistics as after training, so that a mistake in them shows."""
    model = build(generator=torch.Generator().manual_seed(seed))
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.running_mean, module.running_var, module.bias.data):
                tensor.uniform_(0.5, 1.5, generator=generator)
    return model.eval()


def chain(*weights):
    """1x1 convolutions without bias, with the given weights."""
    layers = [nn.Conv2d(weight.shape[1], weight.shape[0], 1, bias=False) for weight in weights]
    for layer, weight in zip(layers, weights, strict=True):
        layer.weight.data = weight[:, :, None, None].clone()
    return nn.Sequential(*layers)


def test_by_hand():
    # l1 norms of the first layer's filters: |1| + |-1| = 2, |3| + 0 = 3, |-0.5| + |1| = 1.5, |0.1| + |2| = 2.1
    # half of the four go: 1.5 and 2, filters 2 and 0; with them their columns of the second layer
    first = torch.tensor([[1.0, -1.0], [3.0, 0.0], [-0.5, 1.0], [0.1, 2.0]])
    second = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    small = pruning_filters.prune(chain(first, second), [(torch.ones(1, 2, 3, 3), None)], 0.5)
    assert small[0].weight[:, :, 0, 0].tolist() == [[3.0, 0.0], torch.tensor([0.1, 2.0]).tolist()]
    assert small[1].weight[:, :, 0, 0].tolist() == [[2.0, 4.0]]
    assert (small[0].out_channels, small[1].in_channels) == (2, 2)


def test_it_is_the_sum_of_absolute_values():
    # l1: 2.4 and 2; l2: 1.39 and 2; sum: 0 and 2; largest: 0.8 and 2. Only the l1 norm removes the second filter
    first = torch.tensor([[0.8, -0.8, 0.8, -0.8][:3], [2.0, 0.0, 0.0]])
    small = pruning_filters.prune(chain(first, torch.ones(1, 2)), [(torch.ones(1, 3, 2, 2), None)], 0.5)
    assert torch.equal(small[0].weight[:, :, 0, 0], first[:1])


def test_greedy_counting_leaves_out_kernels_that_read_pruned_maps():
    # layer 1 loses filter 0 (norm 1 of 1, 2). Layer 2 reads (map 0, map 1): independent norms 5 + 1 = 6 and 0 + 2 = 2: filter 1
    # goes; greedy norms without map 0: 1 and 2: filter 0 goes
    weights = torch.tensor([[1.0], [2.0]]), torch.tensor([[5.0, 1.0], [0.0, 2.0]]), torch.ones(1, 2)
    data = [(torch.ones(1, 1, 2, 2), None)]
    assert pruning_filters.prune(chain(*weights), data, 0.5)[1].weight.flatten().tolist() == [1.0]
    assert pruning_filters.prune(chain(*weights), data, 0.5, greedy=True)[1].weight.flatten().tolist() == [2.0]


def test_the_shortcut_decides_for_the_branch_that_is_added_to_it():
    model = net()
    groups = removable_groups(model, EXAMPLE)
    decides = {group.name: member.tensor for group, member in pruning_filters.deciding_weights(model, groups).items()}
    assert decides["conv1"] == "conv1.weight"  # identity shortcut: the stem made the maps, not blocks.0.conv2
    assert decides["blocks.1.conv2"] == "blocks.1.shortcut.0.weight"
    assert decides["blocks.2.conv2"] == "blocks.2.shortcut.0.weight"
    kept = pruning_filters.filters_to_keep(model, groups, 0.25)
    projection = model.blocks[1].shortcut[0].weight.detach()[:, :, 0, 0]
    assert (~kept["blocks.1.conv2"]).nonzero().flatten().tolist() == projection.abs().sum(1).argsort()[:4].sort().values.tolist()


def test_of_two_layers_that_are_added_at_the_same_depth_the_first_decides():
    class Parallel(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.other, self.reader = nn.Conv2d(1, 2, 1), nn.Conv2d(1, 2, 1), nn.Conv2d(2, 1, 1)

        def forward(self, inputs):
            return self.reader(self.one(inputs) + self.other(inputs))

    model = Parallel()
    model.one.weight.data = torch.tensor([1.0, 2.0])[:, None, None, None]
    model.other.weight.data = torch.tensor([9.0, 1.0])[:, None, None, None]
    assert pruning_filters.prune(model, [(torch.ones(1, 1, 2, 2), None)], 0.5).one.weight.flatten().tolist() == [2.0]


def test_a_depthwise_filter_does_not_decide_and_every_layer_that_reads_a_concatenation_is_reached():
    model = net(mobilenet_small)
    decides = pruning_filters.deciding_weights(model, removable_groups(model, EXAMPLE))
    assert not any("depthwise" in member.tensor for member in decides.values()) and len(decides) == 5
    model = net(densenet_small)
    assert len(pruning_filters.deciding_weights(model, removable_groups(model, EXAMPLE))) == 4


@pytest.mark.parametrize("fraction", [0.3, 0.5, 0.75])
def test_same_filters_as_ln_structured_of_torch(fraction):
    model = net(convnet)
    kept = pruning_filters.filters_to_keep(model, removable_groups(model, EXAMPLE), fraction)
    assert kept.keys() == {"features.0", "features.3", "features.7", "features.10"}  # no neurons of the classifier
    for name, keep in kept.items():
        layer = copy.deepcopy(model.get_submodule(name))
        torch_prune.ln_structured(layer, "weight", amount=fraction, n=1, dim=0)
        assert torch.equal(layer.weight_mask.flatten(1).any(1), keep)


def test_same_network_as_torch_pruning():
    # the peer rounds down what is kept: at 0.5 of 8 and 16 filters that is the same number
    model = net(convnet)
    small = pruning_filters.prune(model, BATCHES, 0.5)
    peer = copy.deepcopy(model)
    importance = torch_pruning.importance.GroupMagnitudeImportance(p=1, group_reduction="first", normalizer=None)
    ignored = [peer.classifier[0], peer.classifier[2]]
    torch_pruning.pruner.BasePruner(peer, EXAMPLE, importance=importance, pruning_ratio=0.5, ignored_layers=ignored).step()
    assert {n: t.shape for n, t in small.state_dict().items()} == {n: t.shape for n, t in peer.state_dict().items()}
    torch.testing.assert_close(small(EXAMPLE), peer(EXAMPLE))


@pytest.mark.parametrize("build", [resnet8, convnet, mobilenet_small, densenet_small])
def test_the_smaller_network_computes_what_the_masked_one_does(build):
    model = net(build)
    groups = removable_groups(model, EXAMPLE)
    kept = pruning_filters.filters_to_keep(model, groups, 0.5)
    small = pruning_filters.prune(model, BATCHES, 0.5)
    torch.testing.assert_close(small(EXAMPLE), surgery.masked(model, groups, kept)(EXAMPLE), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(small(EXAMPLE), model(EXAMPLE), atol=1e-3)
    dense, now = counting.report(model, EXAMPLE), counting.report(small, EXAMPLE)
    assert now.parameters < 0.6 * dense.parameters and now.macs < 0.6 * dense.macs


def test_frozen_layers_keep_their_shape_and_so_do_the_layers_that_feed_them():
    model = net()
    model.blocks[1].conv1.weight.requires_grad_(False)
    small = pruning_filters.prune(model, BATCHES, 0.5)
    assert torch.equal(small.blocks[1].conv1.weight, model.blocks[1].conv1.weight)
    assert small.conv1.weight.shape[0] == 8 and small.blocks[2].conv1.weight.shape[0] == 16


def test_retrains_the_smaller_network():
    seen = []
    pruning_filters.prune(net(), BATCHES, 0.5, train=lambda model: seen.append(counting.parameters(model)) or model)
    assert seen == [counting.parameters(pruning_filters.prune(net(), BATCHES, 0.5))]


def test_a_network_without_convolutions_has_no_filters():
    with pytest.raises(ValueError, match="no filter"):
        pruning_filters.prune(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)), [(torch.ones(1, 4), None)], 0.5)


@pytest.mark.claim
def test_small_filters_matter_less_than_large_ones_before_and_after_retraining():
    # the paper prunes smallest, random and largest filters; here smallest against largest, at a quarter of each layer's filters
    (inputs, targets), (test_inputs, test_targets) = digits()
    test = batches(test_inputs, test_targets, 360)
    before, after = [], []
    for seed in range(3):
        train = batches(inputs, targets, 64, torch.Generator().manual_seed(seed))
        model = fit(convnet(generator=torch.Generator().manual_seed(seed)), train, 4)
        groups = removable_groups(model, inputs[:1])
        kept = pruning_filters.filters_to_keep(model, groups, 0.5)
        upside_down = copy.deepcopy(model)
        for name in kept:
            weight = upside_down.get_submodule(name).weight.data
            weight.div_(weight.flatten(1).abs().sum(1)[:, None, None, None] ** 2)  # the norm becomes 1 / norm: the order turns round
        wrong = pruning_filters.filters_to_keep(upside_down, groups, 0.5)
        smallest, largest = (surgery.remove(model, groups, keep) for keep in (kept, wrong))
        before.append(accuracy(smallest, test) - accuracy(largest, test))
        after.append(accuracy(fit(smallest, train, 2), test) - accuracy(fit(largest, train, 2), test))
    assert sum(before) / 3 > 0.1 and sum(after) / 3 > 0
