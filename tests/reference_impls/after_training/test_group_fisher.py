"""Group Fisher pruning (liu2021group): by hand, against differences of the loss, and by the memory that it frees."""

from functools import partial

import pytest
import torch
from torch import nn

from reference_impls.after_training import group_fisher
from reference_impls.core.structures import removable_groups
from reference_impls.core.training import accuracy, fit, momentum_sgd
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import convnet, mobilenet_small, resnet8, vit_small

EXAMPLE = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
BATCHES = [(EXAMPLE[:3], torch.tensor([0, 1, 2])), (EXAMPLE[3:], torch.tensor([3]))]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def chain():
    """Two maps, filters 1 and 2, read with weights 3 and -1."""
    model = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.Conv2d(2, 1, 1, bias=False))
    model[0].weight.data = torch.tensor([1.0, 2.0])[:, None, None, None]
    model[1].weight.data = torch.tensor([3.0, -1.0])[None, :, None, None]
    return model


def mean_square(outputs, _):
    return outputs.square().flatten(1).sum(1).mean()


def test_by_hand():
    # x = 1: maps (1, 2), output 3 - 2 = 1, L = 1, dL/dmap = 2 * (3, -1), by the mask (1, 2) * (6, -2) = (6, -4)
    # x = 2: maps (2, 4), output 2, dL/dmap = 4 * (3, -1), by the mask (24, -16). Squares: 36 + 576 = 612 and 16 + 256 = 272
    model, inputs = chain(), torch.tensor([1.0, 2.0])[:, None, None, None]
    groups = removable_groups(model, inputs)
    together = group_fisher.fisher(model, groups, [(inputs, None)], mean_square)
    apart = group_fisher.fisher(model, groups, [(inputs[:1], None), (inputs[1:], None)], mean_square)
    assert together["0"].tolist() == apart["0"].tolist() == [612.0, 272.0]
    # with two pixels, both of value 1: the sum over positions is squared, (6 + 6)^2 and (-4 - 4)^2
    found = group_fisher.fisher(model, groups, [(torch.ones(1, 1, 1, 2), None)], mean_square)
    assert found["0"].tolist() == [144.0, 64.0]
    assert group_fisher.memory(model, groups, torch.ones(1, 1, 3, 5)) == {"0": 15}


def scaled_loss(model, layers, channel, factor, inputs, target):
    """The loss of one example when all layers read a channel multiplied by a factor."""

    def scale(layer, args):
        x = args[0].clone()
        if isinstance(layer, nn.Linear):
            x[..., channel] *= factor
        else:
            x[:, channel] *= factor
        return x

    hooks = [layer.register_forward_pre_hook(scale) for layer in layers]
    try:
        return nn.functional.cross_entropy(model(inputs), target).item()
    finally:
        for hook in hooks:
            hook.remove()


@pytest.mark.parametrize(
    ("build", "name", "reading"),
    [
        (resnet8, "conv1", ["blocks.0.conv1", "blocks.1.conv1", "blocks.1.shortcut.0"]),
        (resnet8, "blocks.1.conv1", ["blocks.1.conv2"]),
        (mobilenet_small, "blocks.0.expand.0", ["blocks.0.depthwise.0", "blocks.0.project.0"]),
        (convnet, "classifier.0", ["classifier.2"]),
        (vit_small, "blocks.0.mlp.up", ["blocks.0.mlp.down"]),
    ],
)
def test_the_information_is_that_of_differences_of_the_loss(build, name, reading):
    # what all layers that read a channel are given is scaled by 1 + h and 1 - h, for one example at a time
    model = build(generator=seeded()).double().eval()
    inputs, targets, step = EXAMPLE.double(), torch.arange(4), 1e-5
    groups = [group for group in removable_groups(model, inputs) if group.name == name]
    found = group_fisher.fisher(model, groups, [(inputs, targets)])[name]
    layers = [model.get_submodule(path) for path in reading]
    assert {model.get_submodule(member.layer) for member in group_fisher.readers(model, groups[0])} == set(layers)
    for channel in (0, 3, 7):
        expected = 0.0
        for n in range(4):
            up, down = (scaled_loss(model, layers, channel, 1 + h, inputs[n : n + 1], targets[n : n + 1]) for h in (step, -step))
            expected += ((up - down) / (2 * step)) ** 2
        assert found[channel].item() == pytest.approx(expected, rel=1e-4)


def test_a_flattened_channel_is_read_at_all_its_places():
    model = convnet(generator=seeded()).double().eval()
    inputs, targets, step = EXAMPLE[:1].double(), torch.tensor([1]), 1e-5
    groups = [group for group in removable_groups(model, inputs) if group.name == "features.10"]
    found = group_fisher.fisher(model, groups, [(inputs, targets)])["features.10"]

    def scale(factor, channel):
        def hook(_, args):
            x = args[0].clone()
            x[:, 4 * channel : 4 * channel + 4] *= factor
            return x

        handle = model.classifier[0].register_forward_pre_hook(hook)
        value = nn.functional.cross_entropy(model(inputs), targets).item()
        handle.remove()
        return value

    for channel in (0, 5, 15):
        expected = ((scale(1 + step, channel) - scale(1 - step, channel)) / (2 * step)) ** 2
        assert found[channel].item() == pytest.approx(expected, rel=1e-4, abs=1e-12)


def test_two_depthwise_filters_read_what_they_make_and_what_is_not_used_adds_nothing():
    class Unused(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.depthwise, self.last = nn.Conv2d(1, 2, 1), nn.Conv2d(2, 2, 1, groups=2), nn.Conv2d(2, 1, 1)
            self.unused = nn.Conv2d(2, 1, 1)

        def forward(self, x):
            x = self.depthwise(self.first(x))
            self.unused(x)
            return self.last(x)

    model = Unused()
    group = removable_groups(model, EXAMPLE)[0]
    assert [member.layer for member in group_fisher.readers(model, group)] == ["last", "unused", "depthwise"]
    found = group_fisher.fisher(model, [group], [(EXAMPLE, None)], mean_square)
    model.unused.weight.data *= 100
    assert torch.equal(group_fisher.fisher(model, [group], [(EXAMPLE, None)], mean_square)["first"], found["first"])
    assert found["first"].all()


def test_memory_counts_all_layers_that_make_a_channel():
    model = resnet8(generator=seeded())
    found = group_fisher.memory(model, removable_groups(model, EXAMPLE), EXAMPLE[:1])
    # the stream of 8 x 8 pixels is made by the stem and the first block; from then on maps have 4 x 4, then 2 x 2 pixels
    assert found == {
        "conv1": 128,
        "blocks.0.conv1": 64,
        "blocks.1.conv1": 16,
        "blocks.1.conv2": 32,
        "blocks.2.conv1": 4,
        "blocks.2.conv2": 8,
    }
    model = convnet(generator=seeded())
    found = group_fisher.memory(model, removable_groups(model, EXAMPLE), EXAMPLE[:1])
    assert found == {"features.0": 64, "features.3": 64, "features.7": 16, "features.10": 16, "classifier.0": 1}
    model = vit_small(generator=seeded())
    found = group_fisher.memory(model, removable_groups(model, EXAMPLE), EXAMPLE[:1])
    assert found["blocks.0.mlp.up"] == 17  # neurons, once for each token
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_the_information_is_divided_by_what_is_freed():
    # two chains beside each other, equal but for the number of pixels, so equal in information per pixel of the output
    class Beside(nn.Module):
        def __init__(self):
            super().__init__()
            self.large, self.pool, self.small = chain(), nn.AvgPool2d(2), chain()

        def forward(self, x):
            return self.large(x).mean((2, 3)) + self.small(self.pool(x)).mean((2, 3)) * 1.5

    model, inputs = Beside(), torch.ones(1, 1, 4, 4)
    data = [(inputs, None)]
    for per, expected in (("nothing", (1, 2)), ("memory", (1, 2)), ("macs", (1, 2))):
        small = group_fisher.prune(model, data, 0.25, rounds=1, per=per, loss=mean_square)
        widths = small.large[0].out_channels, small.small[0].out_channels
        # per pixel, the chain of 16 pixels is cheaper to lose than that of 4: it is 2.25 times less sensitive, and frees 4 times more
        assert widths == expected, per
    model.small[1].weight.data /= 3  # now the small one is less sensitive, by 4, but frees less, by 4 times
    small = group_fisher.prune(model, data, 0.25, rounds=1, per="nothing", loss=mean_square)
    assert (small.large[0].out_channels, small.small[0].out_channels) == (2, 1)
    model.small[1].weight.data *= 1.2
    for per, expected in (("nothing", (2, 1)), ("memory", (1, 2)), ("macs", (1, 2))):
        small = group_fisher.prune(model, data, 0.25, rounds=1, per=per, loss=mean_square)
        assert (small.large[0].out_channels, small.small[0].out_channels) == expected, per


def test_operations_count_those_that_read_the_channel_and_memory_does_not():
    # the second chain is read by four filters instead of one, three of them zero; it is 1.21 times as sensitive and costs 5 / 2 as much
    class Beside(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = chain(), chain()
            self.second[1] = nn.Conv2d(2, 4, 1, bias=False)
            self.second[1].weight.data.zero_()
            self.second[1].weight.data[0, :, 0, 0] = torch.tensor([3.3, -1.1])

        def forward(self, x):
            return self.first(x) + self.second(x).sum(1, keepdim=True)

    for per, expected in (("nothing", (1, 2)), ("memory", (1, 2)), ("macs", (2, 1))):
        small = group_fisher.prune(Beside(), [(torch.ones(1, 1, 2, 2), None)], 0.25, rounds=1, per=per, loss=mean_square)
        assert (small.first[0].out_channels, small.second[0].out_channels) == expected, per


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="per"):
        group_fisher.prune(resnet8(), BATCHES, 0.5, per="time")
    model = resnet8()
    with pytest.raises(ValueError, match="batches"):
        group_fisher.fisher(model, removable_groups(model, EXAMPLE), [])


def activations(model, example):
    """All outputs of convolutions and linear layers, of one example."""
    found = []
    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(lambda *args: found.append(args[2].numel())) for layer in layers]
    model(example)
    for hook in hooks:
        hook.remove()
    return sum(found)


@pytest.mark.claim
def test_divided_by_memory_as_many_channels_free_more_memory_at_the_same_accuracy():
    # half of all channels go in four rounds with one epoch after each; divided by memory, and not divided
    (inputs, targets), (test_inputs, test_targets) = digits()
    test = batches(test_inputs, test_targets, 360)
    optimizer = partial(momentum_sgd, learning_rate=0.03)
    seen = {"memory": [], "nothing": []}
    for seed in range(3):
        data = batches(inputs, targets, 64, seeded(seed))
        model = fit(resnet8(generator=seeded(seed)), data, 3, optimizer=optimizer)
        for per, results in seen.items():
            train = partial(fit, batches=data, epochs=1, optimizer=optimizer)
            small = group_fisher.prune(model, data[:6], 0.5, rounds=4, per=per, train=train)
            left = activations(small, inputs[:1]) / activations(model, inputs[:1])
            results.append(torch.tensor([accuracy(small, test), left]))
    (score, left), (other_score, other_left) = (sum(results) / 3 for results in seen.values())
    assert left < 0.8 * other_left
    assert score > other_score - 0.03
