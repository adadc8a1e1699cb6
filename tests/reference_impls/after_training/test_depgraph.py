"""DepGraph (fang2023depgraph): by hand, against the authors' Torch-Pruning, and by what sparse training brings."""

import copy
from functools import partial

import pytest
import torch
import torch_pruning
from torch import nn

from reference_impls.after_training import depgraph
from reference_impls.core import counting, surgery
from reference_impls.core.masks import keep_units
from reference_impls.core.structures import removable_groups
from reference_impls.core.training import Callback, accuracy, fit, momentum_sgd
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import convnet, densenet_small, mobilenet_small, resnet8, vit_small

EXAMPLE = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
BATCHES = [(EXAMPLE, torch.tensor([0, 1, 2, 3]))]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def net(build=resnet8):
    """With scales and statistics as after training."""
    model, generator = build(generator=seeded()), seeded(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.running_mean, module.running_var, module.bias.data):
                tensor.uniform_(0.5, 1.5, generator=generator)
    return model.eval()


def small_net():
    """Two channels: filters 1 and 2, scales 1 and 3, columns (2, 0)."""
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Conv2d(2, 1, 1))
    model[0].weight.data = torch.tensor([1.0, 2.0])[:, None, None, None]
    model[1].weight.data = torch.tensor([1.0, 3.0])
    model[2].weight.data = torch.tensor([2.0, 0.0])[None, :, None, None]
    return model


def peer(model, ignored, ratio=0.5):
    return torch_pruning.pruner.GroupNormPruner(
        model, EXAMPLE, torch_pruning.importance.GroupMagnitudeImportance(p=2), reg=0.01, pruning_ratio=ratio, ignored_layers=ignored
    )


def last_layers(model):
    return [model.classifier[2]] if hasattr(model, "classifier") else [model.fc]


def test_the_importance_by_hand():
    # 1 + 1 + 4 = 6 and 4 + 9 + 0 = 13, of mean 9.5; biases, whatever they are, do not count
    model = small_net()
    group = removable_groups(model, torch.ones(1, 1, 2, 2))[0]
    torch.testing.assert_close(depgraph.group_importance(model, group), torch.tensor([6 / 9.5, 13 / 9.5]))


def test_the_penalty_by_hand():
    # roots of importance 1, 2, 3: factors 2^(4 * (1, 1/2, 0)) = 16, 4, 1
    torch.testing.assert_close(depgraph.shrinkage(torch.tensor([1.0, 4.0, 9.0]), 4.0), torch.tensor([16.0, 4.0, 1.0]))
    assert depgraph.shrinkage(torch.tensor([2.0, 2.0]), 4.0).tolist() == [1.0, 1.0]
    # the first channel is the less important: its filter 1, scale 1 and column 2 get 0.5 * 16 of themselves, the second's 0.5
    model = small_net()
    groups = removable_groups(model, torch.ones(1, 1, 2, 2))
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    depgraph.GroupSparsity(groups, 0.5, 4.0).after_backward(model, None)
    assert model[0].weight.grad.flatten().tolist() == [1 + 8.0, 1 + 1.0]
    assert model[1].weight.grad.tolist() == [1 + 8.0, 1 + 1.5]
    assert model[2].weight.grad.flatten().tolist() == [1 + 16.0, 1 + 0.0]
    assert model[0].bias.grad.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("build", [resnet8, convnet])
def test_importances_are_those_of_torch_pruning(build):
    model = net(build)
    theirs = {}
    names = {module: name for name, module in model.named_modules()}
    pruner = peer(model, last_layers(model))
    for group in pruner.DG.get_all_groups(ignored_layers=last_layers(model)):
        layers = {names[dependency.target.module] for dependency, _ in group if dependency.target.module in names}
        theirs[frozenset(layers)] = pruner.estimate_importance(group)
    groups = removable_groups(model, EXAMPLE)
    assert len(groups) == len(theirs)
    for group in groups:
        found = next(importance for layers, importance in theirs.items() if {m.layer for m in group.members} <= layers)
        torch.testing.assert_close(depgraph.group_importance(model, group), found)


@pytest.mark.parametrize("build", [resnet8, convnet])
def test_sparse_training_adds_the_gradient_that_torch_pruning_adds(build):
    model = net(build)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    other = copy.deepcopy(model)
    for parameter in other.parameters():
        parameter.grad = torch.zeros_like(parameter)
    peer(other, last_layers(other)).regularize(other, alpha=2**4)
    depgraph.GroupSparsity(removable_groups(model, EXAMPLE), 0.01, 4.0).after_backward(model, None)
    theirs = dict(other.named_parameters())
    assert sum(int(parameter.grad.any()) for parameter in model.parameters()) >= 10
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, theirs[name].grad, msg=name)


@pytest.mark.parametrize("build", [resnet8, convnet])
def test_same_network_as_torch_pruning(build):
    model = net(build)
    small = depgraph.prune(model, BATCHES, 0.5)
    other = copy.deepcopy(model)
    peer(other, last_layers(other)).step()
    assert {n: t.shape for n, t in small.state_dict().items()} == {n: t.shape for n, t in other.state_dict().items()}
    torch.testing.assert_close(small(EXAMPLE), other.eval()(EXAMPLE), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("build", [resnet8, convnet, mobilenet_small, densenet_small])
def test_the_smaller_network_computes_what_the_masked_one_does(build):
    model = net(build)
    groups = removable_groups(model, EXAMPLE)
    kept = keep_units({group.name: depgraph.group_importance(model, group) for group in groups}, 0.5, "layer")
    small = depgraph.prune(model, BATCHES, 0.5)
    torch.testing.assert_close(small(EXAMPLE), surgery.masked(model, groups, kept)(EXAMPLE), rtol=1e-5, atol=1e-5)
    assert counting.macs(small, EXAMPLE) < counting.macs(model, EXAMPLE)


def test_a_transformer_is_pruned_with_its_stream():
    model = vit_small(generator=seeded()).eval()
    small = depgraph.prune(model, BATCHES, 0.5)
    assert small.norm.weight.shape == (16,)
    assert small(EXAMPLE).shape == (4, 10)
    model.norm.weight.data[0] = 100.0  # the scales of a layer norm count
    assert depgraph.prune(model, BATCHES, 0.9).norm.weight.max() == 100


def test_over_the_whole_network_layers_lose_different_parts_and_dead_layers_do_not_matter():
    model = net()
    model.blocks[2].conv1.weight.data[:16] *= 0.01
    model.blocks[2].bn1.weight.data[:16] *= 0.01
    model.blocks[2].conv2.weight.data[:, :16] *= 0.01
    small = depgraph.prune(model, BATCHES, 16 / 112, group="network")
    assert [block.conv1.out_channels for block in small.blocks] == [8, 16, 16]
    for parameter in model.blocks[0].conv1.parameters():
        parameter.data.zero_()
    model.blocks[0].bn1.weight.data.zero_()
    model.blocks[0].conv2.weight.data.zero_()
    assert depgraph.prune(model, BATCHES, 0.5).blocks[0].conv1.out_channels == 4


def test_trains_sparsely_then_prunes_then_trains():
    seen = []

    def train(model, callbacks=()):
        seen.append((counting.parameters(model), [type(callback) for callback in callbacks]))
        return model

    model = net()
    small = depgraph.prune(model, BATCHES, 0.5, train=train)
    assert seen == [(counting.parameters(model), [depgraph.GroupSparsity]), (counting.parameters(small), [])]
    seen.clear()
    depgraph.prune(model, BATCHES, 0.5, train=train, strength=0.0)
    assert [callbacks for _, callbacks in seen] == [[]]
    given = []
    depgraph.prune(model, BATCHES, 0.5, train=lambda model, callbacks=(): given.extend(callbacks) or model, strength=0.3, alpha=2.0)
    assert (given[0].strength, given[0].alpha) == (0.3, 2.0)


def test_only_the_slices_of_a_group_are_pulled():
    # a layer that reads a concatenation reads several groups
    model = net(densenet_small)
    groups = removable_groups(model, EXAMPLE)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    depgraph.GroupSparsity(groups[:1], 0.1, 4.0).after_backward(model, None)
    pulled = {name: weight.grad for name, weight in model.named_parameters() if weight.grad.any()}
    reading = pulled["blocks.1.conv.weight"]
    assert reading[:, :8].all()
    assert not reading[:, 8:].any()
    assert pulled["bn.weight"][:8].all()
    assert not pulled["bn.weight"][8:].any()
    assert "blocks.0.conv.weight" in pulled
    assert not any(name.endswith("bias") for name in pulled)


def test_an_amount_is_refused_before_anything_is_trained():
    def train(model, callbacks=()):
        raise AssertionError

    with pytest.raises(ValueError, match="amount"):
        depgraph.prune(resnet8(), BATCHES, 1.5, train=train)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="strength"):
        depgraph.prune(resnet8(), BATCHES, 0.5, strength=-1.0)
    with pytest.raises(ValueError, match="group"):
        depgraph.prune(resnet8(), BATCHES, 0.5, group="row")


class Uniform(Callback):
    """The same pull on all groups alike, as strong in all as the uneven one is at the start."""

    def __init__(self, sparse, model):
        gammas = [depgraph.shrinkage(depgraph.group_importance(model, group), sparse.alpha) for group in sparse.groups]
        self.even = depgraph.GroupSparsity(sparse.groups, sparse.strength * torch.cat(gammas).mean().item(), 0.0)

    def after_backward(self, model, optimizer):
        self.even.after_backward(model, optimizer)


def plain(seed):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 10),
    )  # fmt: skip


@pytest.mark.claim
def test_after_sparse_training_channels_can_go_without_harm():
    # 65 % of each layer's channels go, no retraining; against as strong a penalty that is the same for all, and against none. With 75 %
    # and 4 epochs the order was the same, but a tenth of the accuracy was lost: the penalty needs its time
    (inputs, targets), (test_inputs, test_targets) = digits()
    test = batches(test_inputs, test_targets, 360)
    optimizer = partial(momentum_sgd, learning_rate=0.03)
    seen = {"uneven": [], "even": [], "none": []}
    for seed in range(3):
        data = batches(inputs, targets, 64, seeded(seed))
        model = fit(plain(seed), data, 3, optimizer=optimizer)
        for penalty, results in seen.items():

            def train(network, callbacks=(), data=data, penalty=penalty):
                if not callbacks:
                    return network
                used = {"uneven": callbacks, "even": [Uniform(callbacks[0], network)], "none": []}[penalty]
                return fit(network, data, 6, used, optimizer=optimizer)

            results.append(accuracy(depgraph.prune(model, data, 0.65, train=train, strength=0.01), test))
    uneven, even, none = (sum(results) / 3 for results in seen.values())
    assert uneven > 0.9
    assert uneven > even + 0.1
    assert uneven > none + 0.1
