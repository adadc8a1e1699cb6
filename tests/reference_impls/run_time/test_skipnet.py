"""SkipNet (wang2018skipnet): by hand, against networks with fewer blocks, by exact expectations, and by what it spends on easy images."""

import copy
import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from reference_impls.core import counting
from reference_impls.core.amounts import Strength
from reference_impls.core.training import accuracy, fit
from reference_impls.run_time.skipnet import GatedBlock, wrap
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import ResNet, resnet8


def gated(price=1.0, seed=0, per_stage=1):
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    return wrap(ResNet(per_stage, 4, 1, 10).eval(), Strength(price), generator=generator)


def decide(skipping, *decisions):
    """Let every gate decide the same for all examples."""
    waiting = list(decisions)

    def decision(features):
        if len(skipping.controller.taken) == 0:
            waiting[:] = decisions
        given = torch.full((len(features),), waiting.pop(0))
        skipping.controller.taken.append((given, given))
        return given

    skipping.controller.forward = decision
    return skipping


def test_gates_by_hand():
    # an LSTM of zero weights: its gates are sigmoid(0) = 1/2, its candidate tanh(b); with b = 2 for the candidate of unit 1 alone
    # cell 1 = 1/2 tanh 2 = 0.4820, hidden 1 = 1/2 tanh(0.4820) = 0.2240; projection 3 * 0.2240 - 0.5 = 0.1719 > 0: the block runs
    # next gate: cell 1 = 1/2 * 0.4820 + 1/2 tanh 2 = 0.7230, hidden 1 = 1/2 tanh(0.7230) = 0.3094; 3 * 0.3094 - 0.5 = 0.4283
    controller = gated().controller
    for parameter in controller.parameters():
        parameter.data.zero_()
    controller.recurrent.bias_ih.data[20] = 2.0  # PyTorch's order of gates: input, forget, candidate, output
    controller.projection.weight.data[0, 0] = 3.0
    controller.projection.bias.data.fill_(-0.5)
    controller.restart()
    assert controller(torch.zeros(2, 10)).tolist() == [1.0, 1.0]
    controller(torch.zeros(2, 10))
    first, second = (probability[0].item() for _, probability in controller.taken)
    assert first == pytest.approx(1 / (1 + torch.e**-0.1719), abs=1e-4)
    assert second == pytest.approx(1 / (1 + torch.e**-0.4283), abs=1e-4)
    controller.projection.bias.data.fill_(-1.0)
    controller.restart()
    assert controller(torch.zeros(1, 10)).item() == 0.0  # 3 * 0.2240 - 1 < 0


def test_rewards_by_hand():
    # two gates, price 1: 1/2 for each skipped block. Losses (3, 1), mean 2: baseline minus loss = (-1, 1)
    # decisions of example 1: run, skip; of example 2: skip, skip
    # second gate: -1 + 1/2 = -0.5; 1 + 1/2 = 1.5. First gate: -0.5 + 0 = -0.5; 1.5 + 1/2 = 2
    skipping = gated(1.0)
    probability = torch.tensor([0.5, 0.5])
    skipping.controller.taken = [(torch.tensor([1.0, 0.0]), probability), (torch.tensor([0.0, 0.0]), probability)]
    first, second = skipping.rewards(torch.tensor([3.0, 1.0]))
    assert first.tolist() == [-0.5, 2.0]
    assert second.tolist() == [-0.5, 1.5]


def test_hybrid_loss_by_hand():
    # one gate, price 2, two examples. Scores (0, 0): loss ln 2; scores (ln 3, 0) for class 0: loss ln(4/3)
    # mean (0.6931 + 0.2877)/2 = 0.4904; decisions run with p = 0.8, skip with p = 0.6
    # rewards: 0.4904 - 0.6931 = -0.2027; 0.4904 - 0.2877 + 2 = 2.2027
    # policy: -0.2027 ln 0.8 = 0.0452; 2.2027 ln 0.4 = -2.0183
    # ((0.6931 - 0.0452) + (0.2877 + 2.0183)) / 2 = 1.4769
    skipping = gated(2.0).draw_decisions()
    skipping.controller.taken = [(torch.tensor([1.0, 0.0]), torch.tensor([0.8, 0.6]))]
    scores = torch.tensor([[0.0, 0.0], [3.0, 1.0]]).where(torch.tensor([[True, True], [False, False]]), torch.tensor([[3.0, 1.0]]).log())
    assert skipping.hybrid_loss(scores, torch.tensor([1, 0])).item() == pytest.approx(1.4769, abs=1e-4)
    with pytest.raises(ValueError, match="draw_decisions"):
        gated().hybrid_loss(scores, torch.tensor([1, 0]))


def test_a_skipped_block_gives_its_shortcut_and_a_block_that_runs_all_of_it():
    inputs = torch.randn(3, 1, 8, 8)
    skipping = gated(per_stage=2)  # a block that always runs and five gates
    network = skipping.network
    for decisions in itertools.product((0.0, 1.0), repeat=5):
        decide(skipping, *decisions)
        hidden = network.blocks[0](F.relu(network.bn1(network.conv1(inputs))))
        for runs, block in zip(decisions, network.blocks[1:], strict=True):
            hidden = block.block(hidden) if runs else block.block.shortcut(hidden)
        expected = network.fc(hidden.mean((2, 3)))
        torch.testing.assert_close(skipping(inputs), expected)


def test_macs_of_all_runs_and_of_none():
    # gates: features 4*10 and 8*10, LSTM 4*10*(10+10) = 800 twice, projections 10 twice: 1740
    inputs = torch.randn(2, 1, 8, 8)
    skipping = gated()
    dense = counting.macs(ResNet(1, 4, 1, 10), inputs[:1])
    blocks = sum(counting.macs(block, torch.randn(1, *shape)) for block, shape in body_inputs(skipping))
    shortcuts = sum(counting.macs(block.shortcut, torch.randn(1, *shape)) for block, shape in body_inputs(skipping))
    skipping.controller.projection.bias.data.fill_(100.0)
    assert skipping.macs(inputs).tolist() == [dense + 1740] * 2
    skipping.controller.projection.bias.data.fill_(-100.0)
    assert skipping.macs(inputs).tolist() == [dense - blocks + shortcuts + 1740] * 2


def body_inputs(skipping):
    first, second = (module for module in skipping.modules() if isinstance(module, GatedBlock))
    return [(first.block, (4, 8, 8)), (second.block, (8, 4, 4))]


def test_each_example_pays_for_its_own_decisions():
    # one image each: nothing runs, the first gated block runs; what is added are its two convolutions, its shortcut is paid either way
    skipping = gated()
    skipping.controller.projection.bias.data.fill_(-100.0)
    inputs = torch.randn(2, 1, 8, 8)
    low = skipping.macs(inputs)
    block, shape = body_inputs(skipping)[0]
    body = counting.macs(block, torch.randn(1, *shape)) - counting.macs(block.shortcut, torch.randn(1, *shape))
    plain = skipping.controller.forward

    def decision(features):
        plain(features)  # runs, so that its layers are counted
        return torch.tensor([0.0, 1.0]) if len(skipping.controller.taken) == 1 else torch.zeros(2)

    skipping.controller.forward = decision
    assert (skipping.macs(inputs) - low).tolist() == [0, body]


def test_a_gate_reads_the_means_of_the_channels_and_one_half_does_not_run():
    skipping = gated()
    seen = []
    skipping.network.blocks[1].features.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    skipping.network.blocks[1](torch.arange(32.0).view(1, 2, 4, 4).repeat(1, 2, 1, 1))
    assert seen[0].tolist() == [[7.5, 23.5, 7.5, 23.5]]  # means of 0 to 15 and of 16 to 31
    skipping.controller.projection.weight.data.zero_()
    skipping.controller.projection.bias.data.zero_()
    assert skipping.controller(torch.randn(1, 10)).item() == 0.0


def test_the_policy_gradient_is_the_gradient_of_the_expected_reward(monkeypatch):
    # two gates, price 1.5: each outcome earns 0.75 for each skipped block. Its expectation over the four outcomes is differentiated
    # directly, and compared with the mean over the same outcomes of what the hybrid loss gives for the drawn decisions.
    # One example alone: the baseline is its own loss, so the price alone is rewarded
    skipping = gated(1.5).draw_decisions().train()
    for layer in skipping.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eval()
    inputs, targets = torch.randn(1, 1, 8, 8), torch.tensor([3])
    bias = skipping.controller.projection.bias
    exact, drawn = 0.0, 0.0
    for outcome in itertools.product((0.0, 1.0), repeat=2):
        waiting = list(outcome)
        monkeypatch.setattr(torch.Tensor, "bernoulli", lambda probability, waiting=waiting: torch.full_like(probability, waiting.pop(0)))
        loss = skipping.hybrid_loss(skipping(inputs), targets)
        first, second = (probability if decision else 1 - probability for decision, probability in skipping.controller.taken)
        chance = first * second
        exact += torch.autograd.grad((chance * 0.75 * (2 - sum(outcome))).sum(), bias, retain_graph=True)[0].item()
        drawn -= chance.item() * torch.autograd.grad(loss, bias)[0].item()
    assert drawn == pytest.approx(exact, rel=1e-4)
    assert exact < 0  # the more open, the less is earned


def test_decisions_are_drawn_in_the_hybrid_stage_of_training_alone():
    skipping = gated()
    inputs = torch.randn(64, 1, 8, 8)
    skipping.controller.projection.bias.data.zero_()
    skipping.train()(inputs)
    assert all(((probability > 0.5) == (decision == 1)).all() for decision, probability in skipping.controller.taken)
    assert skipping.controller.taken[0][0].requires_grad
    skipping.draw_decisions()(inputs)
    drawn = [(decision, probability) for decision, probability in skipping.controller.taken]
    assert not drawn[0][0].requires_grad
    assert all(abs(decision.mean() - probability.mean()) < 0.25 and 0 < decision.sum() < 64 for decision, probability in drawn)
    skipping.eval()(inputs)
    assert all(((probability > 0.5) == (decision == 1)).all() for decision, probability in skipping.controller.taken)
    copy.deepcopy(skipping.train())  # also while decisions hang on a graph


def test_wrap_gates_all_residual_blocks_but_the_first_and_opens_them():
    model = resnet8()
    skipping = wrap(model, Strength(0.1))
    assert [isinstance(block, GatedBlock) for block in skipping.network.blocks] == [False, True, True]
    assert skipping.network.blocks[1].features.in_features == 8
    assert skipping.controller.projection.bias.item() == 1.0
    assert not isinstance(model.blocks[1], GatedBlock)
    assert skipping.penalty() == 0
    one, other = (wrap(model, Strength(0.1), generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert 0.2 < one.controller.recurrent.weight_ih.max() <= 10**-0.5
    assert -(10**-0.5) <= one.controller.recurrent.weight_ih.min() < -0.2
    with pytest.raises(ValueError, match="0 residual blocks"):
        wrap(nn.Sequential(nn.Conv2d(1, 1, 1)), Strength(0.1))


@pytest.mark.claim
def test_it_spends_less_on_easy_images_and_the_right_images_get_the_blocks():
    # every second digit says its class in a second channel, the others are turned by a quarter at random and need more layers.
    # Blocks are first trained under drawn gates, then the gates alone by their rewards. Rivals: gates whose reward leaves out the
    # loss, and the decisions of the gates dealt out to other images at the same cost. (With layers that go on learning at full speed
    # the gates mostly end in one decision for all: the layers adapt faster than the gates.)
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

    def adam(rate):
        return lambda parameters: torch.optim.Adam(parameters, rate)

    (inputs, targets), (test_inputs, test_targets) = digits()
    generator = torch.Generator().manual_seed(0)
    inputs, _ = mixed(inputs, targets, generator)
    test_inputs, easy = mixed(test_inputs, test_targets, generator)
    test, gaps, blind_gaps, lost = batches(test_inputs, test_targets, 360), [], [], []
    for seed in range(3):
        torch.manual_seed(seed)
        train = batches(inputs, targets, 64, torch.Generator().manual_seed(seed))
        skipping = wrap(ResNet(1, 4, 2, 10), Strength(0.6), generator=generator).draw_decisions()
        skipping.controller.projection.bias.data.zero_()
        gates = [*skipping.controller.parameters(), *(p for n, p in skipping.named_parameters() if "features" in n)]
        for parameter in gates:
            parameter.requires_grad_(False)
        fit(skipping, train, 10, loss=skipping.hybrid_loss, optimizer=adam(0.01))
        skipping.requires_grad_(False)
        for parameter in gates:
            parameter.requires_grad_(True)
        blind = copy.deepcopy(skipping)
        plain = blind.rewards
        blind.rewards = lambda losses, plain=plain: plain(torch.zeros_like(losses))
        for network, found in [(skipping, gaps), (blind, blind_gaps)][: 2 if seed == 0 else 1]:
            fit(network, train, 24, loss=network.hybrid_loss, optimizer=adam(0.004))
            spent = network.macs(test_inputs).float()
            found.append((1 - spent[easy].mean() / spent[~easy].mean()).item())
        right = accuracy(skipping, test)
        forward, order = skipping.controller.forward, torch.randperm(360, generator=generator)
        skipping.controller.forward = lambda features, forward=forward, order=order: forward(features)[order]
        lost.append(right - accuracy(skipping, test))
    assert min(gaps) > 0.03
    assert sum(gaps) / 3 > 0.08
    assert max(blind_gaps) < 0.03
    assert min(lost) > 0
