"""Network slimming (liu2017learning): by hand, against the authors' update and Torch-Pruning, and by what the penalty brings."""

import copy
from functools import partial

import pytest
import torch
import torch_pruning
from torch import nn

from reference_impls.core import counting, surgery
from reference_impls.core.masks import keep_units
from reference_impls.core.structures import removable_groups
from reference_impls.core.training import Callback, accuracy, fit, momentum_sgd
from reference_impls.during_training import network_slimming
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import convnet, densenet_small, mobilenet_small, resnet8

EXAMPLE = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
BATCHES = [(EXAMPLE, torch.tensor([0, 1, 2, 3]))]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def scaled(build=resnet8):
    """With different scales of both signs, and statistics as after training."""
    model, generator = build(generator=seeded()), seeded(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.normal_(generator=generator)
            for tensor in (module.bias.data, module.running_mean, module.running_var):
                tensor.uniform_(0.5, 1.5, generator=generator)
    return model.eval()


def finish(model, fraction):
    """What is left of an untrained model."""
    slimming = network_slimming.callbacks(model, fraction)[0]
    slimming.example = EXAMPLE[:1]
    return slimming.finish(model)


def test_by_hand():
    # scales of two layers: (0.5, -0.1, 0.3) and (-2, 0.2); of the five, round(0.4*5) = 2 go: |-0.1| and |0.2|
    model = nn.Sequential(
        nn.Conv2d(1, 3, 1, bias=False), nn.BatchNorm2d(3), nn.ReLU(),
        nn.Conv2d(3, 2, 1, bias=False), nn.BatchNorm2d(2), nn.ReLU(), nn.Conv2d(2, 1, 1),
    )  # fmt: skip
    model[1].weight.data = torch.tensor([0.5, -0.1, 0.3])
    model[4].weight.data = torch.tensor([-2.0, 0.2])
    small = finish(model, 0.4)
    torch.testing.assert_close(small[1].weight.data, torch.tensor([0.5, 0.3]))
    torch.testing.assert_close(small[4].weight.data, torch.tensor([-2.0]))
    assert torch.equal(small[3].weight, model[3].weight[:1, [0, 2]]) and torch.equal(small[6].weight, model[6].weight[:, :1])
    # 0.1 * (0.5 + 0.1 + 0.3 + 2 + 0.2) = 0.31
    assert network_slimming.callbacks(model, 0.4, strength=0.1)[0].penalty(model).item() == pytest.approx(0.31)


def test_a_channel_of_a_shortcut_is_scored_by_the_mean_of_its_scales():
    model = scaled()
    scores = network_slimming.channel_scores(model, removable_groups(model, EXAMPLE))
    # the stem and the first block's second convolution write to one stream
    torch.testing.assert_close(scores["conv1"], (model.bn1.weight.abs() + model.blocks[0].bn2.weight.abs()).detach() / 2)
    torch.testing.assert_close(scores["blocks.0.conv1"], model.blocks[0].bn1.weight.abs().detach())


def test_one_step_is_the_authors_update():
    # their code adds strength * sign(scale) to the scale's gradient between the backward pass and the step
    class Subgradient(Callback):
        def after_backward(self, model, optimizer):
            for module in model.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.weight.grad += 0.01 * module.weight.data.sign()

    model = scaled()
    model.bn1.weight.data[0] = 0  # the sign of zero is zero
    theirs = fit(copy.deepcopy(model), BATCHES, 2, [Subgradient()])
    ours = copy.deepcopy(model)
    fit(ours, BATCHES, 2, network_slimming.callbacks(ours, 0.0, strength=0.01))
    for name, tensor in ours.state_dict().items():
        torch.testing.assert_close(tensor, theirs.state_dict()[name], msg=name)


def test_same_network_as_torch_pruning():
    # the peer prunes every scale up to the threshold's: on 8 + 8 + 16 + 16 different scales that is the same set, none empty
    model = scaled(convnet)
    small = finish(copy.deepcopy(model), 0.25)
    peer = copy.deepcopy(model)
    torch_pruning.pruner.BNScalePruner(
        peer,
        EXAMPLE,
        importance=torch_pruning.importance.BNScaleImportance(normalizer=None),
        global_pruning=True,
        pruning_ratio=0.25,
        ignored_layers=[peer.classifier[0], peer.classifier[2]],
    ).step()
    assert {n: t.shape for n, t in small.state_dict().items()} == {n: t.shape for n, t in peer.state_dict().items()}
    torch.testing.assert_close(small(EXAMPLE), peer.eval()(EXAMPLE))


@pytest.mark.parametrize("build", [resnet8, convnet, mobilenet_small, densenet_small])
def test_the_smaller_network_computes_what_the_masked_one_does(build):
    model = scaled(build)
    groups = removable_groups(model, EXAMPLE)
    kept = keep_units(network_slimming.channel_scores(model, groups), 0.5)
    small = finish(model, 0.5)
    torch.testing.assert_close(small(EXAMPLE), surgery.masked(model, groups, kept)(EXAMPLE), rtol=1e-5, atol=1e-5)
    dense, now = counting.report(model, EXAMPLE), counting.report(small, EXAMPLE)
    assert now.parameters < dense.parameters and now.macs < dense.macs


def test_the_threshold_is_one_for_all_layers_and_none_is_emptied():
    model = scaled()
    for module in model.blocks[1].modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data *= 1e-3
    small = finish(model, 30 / 112)  # 8 + 8 + 16 + 16 + 32 + 32 channels; both layers of the middle block could lose 16
    widths = [small.conv1.out_channels, *(conv.out_channels for block in small.blocks for conv in (block.conv1, block.conv2))]
    assert widths == [8, 8, 8, 1, 1, 32, 32]


def test_follows_the_channels_with_the_first_image_and_leaves_no_hook():
    model = scaled()
    small = fit(model, BATCHES, 1, network_slimming.callbacks(model, 0.5))
    assert not model._forward_pre_hooks and not small._forward_pre_hooks
    assert counting.parameters(small) < counting.parameters(model)


def test_frozen_scales_are_neither_penalized_nor_pruned():
    model = scaled()
    model.blocks[1].bn1.weight.requires_grad_(False)
    assert "blocks.1.bn1.weight" not in network_slimming.scales(model)
    assert finish(model, 0.8).blocks[1].conv1.out_channels == 16


def test_refuses_a_network_without_normalization():
    with pytest.raises(ValueError, match="batch normalization"):
        network_slimming.callbacks(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(2, 2)), 0.5)


@pytest.mark.claim
def test_with_the_penalty_channels_can_go_without_harm():
    # accuracy right after removing 40 % of all channels, before any fine-tuning, with and without the penalty in training
    (inputs, targets), (test_inputs, test_targets) = digits()
    test = batches(test_inputs, test_targets, 360)
    full, slim = {}, {}
    for strength in (0.0, 0.01):
        full[strength], slim[strength] = 0.0, 0.0
        for seed in range(3):
            train = batches(inputs, targets, 64, seeded(seed))
            model = convnet((16, 16, 32, 32), generator=seeded(seed))
            slimming = network_slimming.callbacks(model, 0.4, strength=strength)
            small = fit(model, train, 16, slimming, optimizer=partial(momentum_sgd, learning_rate=0.05))
            full[strength] += accuracy(model, test) / 3
            slim[strength] += accuracy(small, test) / 3
    assert slim[0.01] > slim[0.0] + 0.3
    assert slim[0.01] > full[0.01] - 0.15
    assert full[0.01] > full[0.0] - 0.05
