"""RNP (lin2017runtime): by hand, against smaller convolutions, against the best of all decisions, and by what it spends on easy images."""

import copy
import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from reference_impls.core import counting
from reference_impls.core.amounts import Strength
from reference_impls.core.training import fit
from reference_impls.run_time.runtime_neural_pruning import GroupedConvolution, wrap
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import convnet, resnet8


def small(groups=2, price=0.1, **options):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 6, 3, padding=1), nn.ReLU(),
        nn.Conv2d(6, 4, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3),
    )  # fmt: skip
    return wrap(model.eval(), Strength(price), groups=groups, generator=torch.Generator().manual_seed(0), **options)


def decide(pruning, *actions):
    """Let the agent take these actions, layer after layer; one number is meant for all examples."""

    def action(code):
        given = torch.as_tensor(actions[len(pruning.agent.taken)]).expand(len(code))
        pruning.agent.taken.append((torch.zeros(len(code), pruning.agent.decoder.out_features), given))
        return given

    pruning.agent.forward = action
    return pruning


def test_rewards_by_hand():
    # price 0.1, alpha 2; actions (2, 0) and (1, 3), losses (3, 1)
    # first layer: -0.2, 0; last layer: -0.1 - 2*3 = -6.1, -0.3 - 2*1 = -2.3
    pruning = small(4, 0.1, loss_weight=2.0)
    pruning.agent.taken = [(None, torch.tensor([2, 0])), (None, torch.tensor([1, 3]))]
    first, last = pruning.rewards(torch.tensor([3.0, 1.0]))
    torch.testing.assert_close(first, torch.tensor([-0.2, 0.0]))
    torch.testing.assert_close(last, torch.tensor([-6.1, -2.3]))


def test_loss_by_hand():
    # one example, scores (0, 0): cross entropy ln 2 = 0.6931. Price 0.1, alpha 1, gamma 1/2
    # layer 1: values (1, 2), action 1: reward -0.1, then 1/2 of the best of the next layer's values (0.4, 0.2):
    #   target -0.1 + 0.2 = 0.1, error (0.1 - 2)^2 = 3.61
    # layer 2: values (0.4, 0.2), action 1: reward -0.1 - 0.6931 = -0.7931, error (-0.7931 - 0.2)^2 = 0.98634
    pruning = small(discount=0.5)
    first, second = torch.tensor([[1.0, 2.0]], requires_grad=True), torch.tensor([[0.4, 0.2]], requires_grad=True)
    pruning.agent.taken = [(first, torch.tensor([1])), (second, torch.tensor([1]))]
    loss = pruning.loss(torch.zeros(1, 2), torch.tensor([0]))
    assert loss.item() == pytest.approx(0.69315 + 3.61 + 0.98634, abs=1e-4)
    loss.backward()
    # the next layer's values are a target, not to be learned from: 2 (2 - 0.1) = 3.8 and 2 (0.2 + 0.7931) = 1.9863
    torch.testing.assert_close(first.grad, torch.tensor([[0.0, 3.8]]))
    torch.testing.assert_close(second.grad, torch.tensor([[0.0, 1.9863]]), atol=1e-4, rtol=0)


def test_each_image_is_computed_as_by_smaller_convolutions_of_its_own():
    pruning = wrap(convnet((4, 6, 8), image=8).eval(), Strength(0.1), groups=2)
    gated = [layer for layer in pruning.modules() if isinstance(layer, GroupedConvolution)]
    for layer in gated:
        layer.normalization.running_mean.normal_()
        layer.normalization.bias.data.normal_()
    inputs = torch.randn(4, 1, 8, 8)
    actions = (torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1]))
    outputs = decide(pruning, *actions)(inputs)
    features = pruning.network.features
    for example, (first, second) in enumerate(zip(*actions, strict=True)):
        hidden = features[:3](inputs[example : example + 1])
        for place, (layer, action) in enumerate(zip(gated, (first, second), strict=True)):
            kept, norm = (action + 1) * layer.out_channels // 2, layer.normalization
            computed = F.conv2d(hidden, layer.weight[:kept, : hidden.shape[1]], layer.bias[:kept], padding=1)
            statistics = (part[:kept] for part in (norm.running_mean, norm.running_var, norm.weight, norm.bias))
            hidden = F.batch_norm(computed, *statistics).relu()
            if place == 0:
                hidden = F.max_pool2d(hidden, 2)
        padded = torch.zeros(1, 8, 4, 4)
        padded[:, : hidden.shape[1]] = hidden
        expected = pruning.network.classifier(padded.flatten(1))[0]
        torch.testing.assert_close(outputs[example], expected, rtol=1e-4, atol=1e-5)


def test_macs_by_hand():
    # images of 2x2: first convolution 4*1*9*4 = 144, classifier 4*3 = 12
    # second convolution, 3 of 6 channels: 4*3*9*4 = 432; third, of kernel 1, reads these 3: 4 of 4 channels 3*4*4 = 48
    # agent: encoders 4*16 + 6*16 = 160, LSTM 4*16*32 = 2048 twice, decoders 16*2 twice = 64: 4320
    # second example: all 6 channels 864, third 2 of 4: 6*2*4 = 48
    pruning = small()
    layers = [layer for layer in pruning.modules() if isinstance(layer, GroupedConvolution)]
    layers[0].bias.data.fill_(50.0)  # no computed channel is zero behind the rectifier
    pruning.network[0].bias.data.fill_(50.0)
    plain = pruning.agent.forward

    def act(code):
        action = plain(code)  # runs, so that its layers are counted
        return torch.tensor([0, 1]) if len(pruning.agent.taken) == 1 else torch.tensor([1, 0]) + 0 * action

    pruning.agent.forward = act
    assert pruning.macs(torch.rand(2, 1, 2, 2)).tolist() == [144 + 432 + 48 + 12 + 4320, 144 + 864 + 48 + 12 + 4320]
    pruning.agent.forward = lambda code: torch.ones(len(code), dtype=torch.long)
    dense = nn.Sequential(*(nn.Conv2d(*shape) for shape in ((1, 4, 3, 1, 1), (4, 6, 3, 1, 1), (6, 4, 1))))
    assert pruning.macs(torch.rand(1, 1, 2, 2)).tolist() == [counting.macs(dense, torch.rand(1, 1, 2, 2)) + 12 + 160 + 4096]


def test_groups_that_do_not_divide_the_channels_are_rounded_down_and_the_last_action_computes_all():
    pruning = small(4)
    (layer, _) = (layer for layer in pruning.modules() if isinstance(layer, GroupedConvolution))
    found = []
    for action in range(4):
        decide(pruning, action, 0)(torch.randn(1, 1, 4, 4))
        found.append(layer.computed.item())
    assert found == [1, 3, 4, 6]  # (a + 1) * 6 // 4


def test_learned_values_are_those_of_the_best_decisions():
    # brute force over the four outcomes of two layers with two groups each, for one image: what each earns is known exactly,
    # so the value of the best one, and the decisions, can be compared with what the agent has learned from random actions
    pruning = small(2, 0.1, exploration=1.0)
    for layer in pruning.network:
        if hasattr(layer, "weight"):
            layer.weight.data.mul_(3)
    learners = [*pruning.agent.parameters(), *(p for n, p in pruning.named_parameters() if "encoder" in n)]
    pruning.requires_grad_(False)
    for parameter in learners:
        parameter.requires_grad_(True)
    image, label = (2 * torch.randn(3, 1, 4, 4))[1:2], torch.tensor([1])
    earned = {}
    for actions in itertools.product((0, 1), repeat=2):
        loss = F.cross_entropy(decide(copy.deepcopy(pruning), *actions)(image), label)
        earned[actions] = -loss.item() - 0.1 * sum(actions)
    best = max(earned, key=earned.get)
    assert best == (0, 1)  # neither the cheapest nor the dearest
    pruning.train()
    optimizer = torch.optim.Adam(learners, 0.02)
    for _ in range(150):
        optimizer.zero_grad()
        pruning.loss(pruning(image.expand(16, -1, -1, -1)), label.expand(16)).backward()
        optimizer.step()
    pruning.eval()(image)
    assert tuple(action.item() for _, action in pruning.agent.taken) == best
    assert pruning.agent.taken[0][0].max().item() == pytest.approx(earned[best], abs=0.05)
    # the other first action is worth what the best second one makes of it
    other = max(earned[1, 0], earned[1, 1])
    assert pruning.agent.taken[0][0].min().item() == pytest.approx(other, abs=0.05)
    assert earned[best] - other > 0.3


def test_random_actions_are_taken_in_training_at_their_rate():
    pruning = small(4, exploration=0.5)
    inputs = torch.randn(1, 1, 4, 4).expand(4000, -1, -1, -1)
    pruning.train()(inputs)
    values, action = pruning.agent.taken[0]
    # half of all actions are random, and a quarter of those is the best one by chance: 1 - 0.5 * 0.75 = 0.625
    assert (action == values.argmax(1)).float().mean().item() == pytest.approx(0.625, abs=0.03)
    assert action.unique().tolist() == [0, 1, 2, 3]
    pruning.eval()(inputs)
    values, action = pruning.agent.taken[0]
    assert torch.equal(action, values.argmax(1))


def test_the_network_learns_from_the_cross_entropy_alone():
    pruning = small().train()
    inputs, targets = torch.randn(8, 1, 4, 4), torch.randint(3, (8,))
    pruning.loss(pruning(inputs), targets).backward()
    layer = pruning.network[2]
    own, encoder = layer.weight.grad.clone(), layer.encoder.weight.grad
    assert encoder.abs().sum() > 0
    pruning.zero_grad()
    actions = [action for _, action in pruning.agent.taken]
    F.cross_entropy(decide(pruning, *actions)(inputs), targets).backward()
    torch.testing.assert_close(layer.weight.grad, own)
    copy.deepcopy(pruning)  # also while values hang on a graph


def test_wrap_asks_before_every_convolution_but_the_first():
    model = resnet8(width=4)
    pruning = wrap(model, Strength(0.1), groups=4)
    gated = [name for name, layer in pruning.network.named_modules() if isinstance(layer, GroupedConvolution)]
    assert len(gated) == 8
    assert "conv1" not in gated
    assert isinstance(pruning.network.blocks[0].bn1, nn.Identity)
    assert isinstance(pruning.network.blocks[0].conv1.normalization, nn.BatchNorm2d)
    assert not isinstance(model.blocks[0].conv1, GroupedConvolution)
    assert pruning.penalty() == 0
    one, other = (wrap(model, Strength(0.1), generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert 0.2 < one.agent.decoder.weight.max() <= 0.25
    assert -0.25 <= one.agent.decoder.weight.min() < -0.2
    encoder = one.network.blocks[0].conv1.encoder
    assert 0.4 < encoder.weight.max() <= 0.5
    assert -0.5 <= encoder.weight.min() < -0.4
    assert not encoder.bias.any()
    with pytest.raises(ValueError, match="groups: 1"):
        wrap(model, Strength(0.1), groups=1)
    with pytest.raises(ValueError, match="at least 17"):
        wrap(model, Strength(0.1), groups=17)
    model.fc.weight.data[0] = torch.nan
    with pytest.raises(ValueError, match="NaN"):
        wrap(model, Strength(0.1))


@pytest.mark.claim
def test_it_spends_less_on_easy_images_and_the_right_images_get_the_channels():
    # every second digit says its class in a second channel, the others are turned by a quarter at random and need more channels.
    # The network is first trained under random actions, then the agent alone. Rivals: an agent that is not told the loss, and
    # the agent's decisions dealt out to other images at the same cost
    def mixed(images, classes, generator):
        images = torch.cat([images, torch.zeros_like(images)], 1)
        easy = torch.arange(len(images)) % 2 == 0
        for image, label, quick, turn in zip(images, classes, easy, torch.randint(4, (len(images),), generator=generator), strict=True):
            if quick:
                image[1] = 2.0
                image[1].view(-1)[6 * label : 6 * label + 6] = -2.0
            else:
                image.copy_(image.rot90(int(turn), (1, 2)).clone())
        return images, easy

    def adam(parameters):
        return torch.optim.Adam(parameters, 0.01)

    (inputs, targets), (test_inputs, test_targets) = digits()
    generator = torch.Generator().manual_seed(0)
    inputs, _ = mixed(inputs, targets, generator)
    test_inputs, easy = mixed(test_inputs, test_targets, generator)
    gaps, lost = {"told": [], "blind": []}, []
    for seed in range(3):
        torch.manual_seed(seed)
        train = batches(inputs, targets, 64, torch.Generator().manual_seed(seed))
        pruning = wrap(convnet(channels=2), Strength(0.02), exploration=1.0, generator=generator)
        learners = [p for n, p in pruning.named_parameters() if "agent" in n or "encoder" in n]
        for parameter in learners:
            parameter.requires_grad_(False)
        fit(pruning, train, 8, loss=pruning.loss, optimizer=adam)
        pruning.requires_grad_(False)
        for parameter in learners:
            parameter.requires_grad_(True)
        pruning.agent.exploration = 0.5
        blind = copy.deepcopy(pruning)
        blind.loss_weight = 0.0
        for network, found in zip((pruning, blind), gaps.values(), strict=True):
            fit(network, train, 10, loss=network.loss, optimizer=adam)
            spent = network.macs(test_inputs).float()
            found.append((1 - spent[easy].mean() / spent[~easy].mean()).item())
        with torch.no_grad():
            own = F.cross_entropy(pruning(test_inputs), test_targets).item()
            forward, order = pruning.agent.forward, torch.randperm(360, generator=generator)
            pruning.agent.forward = lambda code, forward=forward, order=order: forward(code)[order]
            lost.append(F.cross_entropy(pruning(test_inputs), test_targets).item() - own)
    assert min(gaps["told"]) > 0.2
    assert max(gaps["blind"]) < 0.05
    assert sum(lost) / 3 > 0.01  # of mean cross entropy; one seed alone may find nothing
