"""DHP (li2020dhp): written weights by hand, by loops and by their gradients; the proximal operator against a numeric minimizer."""

import copy
import math
from functools import cache, partial

import pytest
import torch
from scipy.optimize import minimize_scalar
from torch import nn
from torch.nn.utils import parametrize

from reference_impls.core import counting, surgery
from reference_impls.core.amounts import Budget
from reference_impls.core.rounds import made_by_convolutions
from reference_impls.core.structures import Costs, removable_groups
from reference_impls.core.training import accuracy, fit, momentum_sgd
from reference_impls.during_training import dhp
from reference_impls.during_training.dhp import Hypernetwork, Latent, Proximal, cut, hyper, latents, proximal, thresholded
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import convnet, densenet_small, mobilenet_small, resnet8

EXAMPLE = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
BATCHES = [(EXAMPLE, torch.tensor([0, 1, 2, 3]))]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def latent(*entries):
    return Latent(len(entries), [("group", nn.Parameter(torch.tensor(entries)), torch.arange(len(entries)))])


def test_written_weights_by_hand():
    # one input, two outputs, kernels of two numbers, embedded in two numbers
    writer = Hypernetwork(torch.Size([2, 1, 1, 2]), latent(2.0, -1.0), latent(3.0), 2)
    values = {
        "bias0": [[0.5], [0.0]],
        "weight1": [[[1.0, -1.0]], [[2.0, 0.0]]],
        "bias1": [[[0.0, 0.5]], [[1.0, 1.0]]],
        "weight2": [[[[1.0, 2.0], [0.0, 1.0]]], [[[3.0, 1.0], [1.0, -1.0]]]],
        "bias2": [[[0.25, 0.0]], [[0.0, 1.0]]],
    }
    with torch.no_grad():
        for name, value in values.items():
            assert getattr(writer, name).shape == torch.tensor(value).shape
            getattr(writer, name).copy_(torch.tensor(value))
    # first: Z = 2*3 + 0.5 = 6.5; E = (6.5, -6.5 + 0.5 = -6); O = (6.5 - 12 + 0.25, -6)
    # second: Z = -1*3 = -3; E = (-6 + 1 = -5, 0 + 1 = 1); O = (-15 + 1, -5 - 1 + 1)
    assert writer(torch.empty(0)).tolist() == [[[[-5.25, -6.0]]], [[[-14.0, -5.0]]]]


def test_gradients_by_hand():
    # of a weight of one number by its latent entries: dO/dz_out = w_2 w_1 z_in, summed over the embedding
    writer = Hypernetwork(torch.Size([1, 1, 1, 1]), latent(2.0), latent(-3.0), 2)
    with torch.no_grad():
        writer.weight1.copy_(torch.tensor([[[0.5, 2.0]]]))
        writer.weight2.copy_(torch.tensor([[[[4.0, -1.0]]]]))
    writer(torch.empty(0)).sum().backward()
    # w_2 . w_1 = 2 - 2 = 0: nothing; B_0 as well
    assert writer.latent_out.vectors[0].grad.item() == 0 and writer.bias0.grad.item() == 0
    assert writer.weight1.grad.flatten().tolist() == [4 * -6, -1 * -6]  # w_2 Z
    assert writer.weight2.grad.flatten().tolist() == [-6 * 0.5, -6 * 2.0]  # E
    writer.zero_grad()
    with torch.no_grad():
        writer.weight2.copy_(torch.tensor([[[[4.0, 1.0]]]]))
    writer(torch.empty(0)).sum().backward()
    assert writer.latent_out.vectors[0].grad.item() == 4 * -3 and writer.latent_in.vectors[0].grad.item() == 4 * 2


def test_written_weights_against_loops():
    shape = torch.Size([3, 4, 2, 3])
    generator = seeded()
    out, inward = (Latent(size, [("g", nn.Parameter(torch.randn(size, generator=generator)), torch.arange(size))]) for size in (3, 4))
    writer = Hypernetwork(shape, out, inward, 5)
    with torch.no_grad():
        for parameter in writer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    written = writer(torch.empty(shape))
    assert written.shape == shape
    for i in range(3):
        for j in range(4):
            z = out.vectors[0][i] * inward.vectors[0][j] + writer.bias0[i, j]
            e = [z * writer.weight1[i, j, m] + writer.bias1[i, j, m] for m in range(5)]
            o = [sum(writer.weight2[i, j, k, m] * e[m] for m in range(5)) + writer.bias2[i, j, k] for k in range(6)]
            torch.testing.assert_close(written[i, j].flatten(), torch.stack(o))


def test_first_weights_have_the_variance_that_fits_what_the_layer_reads():
    torch.manual_seed(0)
    writer = Hypernetwork(torch.Size([64, 32, 3, 3]), latent(*[1.0] * 64), latent(*[1.0] * 32), 8)
    assert not any(getattr(writer, name).any() for name in ("bias0", "bias1", "bias2"))
    assert writer.weight1.abs().max() <= math.sqrt(3) and abs(writer.weight1.var() - 1) < 0.02
    # with Z = 1 everywhere: variance 8 * 1 * 1 / (8 * 32 * 9)
    assert abs(writer(torch.empty(0)).var() * 32 * 9 - 1) < 0.03


def test_the_latent_vector_of_a_concatenation_by_hand():
    one, two = nn.Parameter(torch.tensor([1.0, 2.0])), nn.Parameter(torch.tensor([5.0, 6.0]))
    # along five indices: two of the first group, one of none, two of the second, in other order
    made = Latent(5, [("one", one, torch.tensor([0, 1, -1, -1, -1])), ("two", two, torch.tensor([-1, -1, -1, 1, 0]))])
    with torch.no_grad():
        made.own.copy_(torch.tensor([7.0, 7.0, 9.0, 7.0, 7.0]))
    assert made().tolist() == [1, 2, 9, 6, 5]
    made().square().sum().backward()
    assert one.grad.tolist() == [2, 4] and two.grad.tolist() == [10, 12] and made.own.grad.tolist() == [0, 0, 18, 0, 0]
    assert Latent(4, [("one", one, torch.tensor([0, 0, 1, 1]))]).own is None
    assert Latent(4, [("one", one, torch.tensor([0, 0, 1, 1]))]).forward().tolist() == [1, 1, 2, 2]
    assert Latent(3, []).own.shape == (3,)
    # two groups that leave nothing over
    both = Latent(4, [("one", one, torch.tensor([-1, 0, -1, 1])), ("two", two, torch.tensor([1, -1, 0, -1]))])
    assert both.own is None and both.forward().tolist() == [6, 1, 5, 2]


def test_the_proximal_operator_by_hand_and_against_a_numeric_minimizer():
    # shrunk by 0.3: 1 -> 0.7, -0.5 -> -0.2, 0.2 -> 0, -0.3 -> 0
    torch.testing.assert_close(proximal(torch.tensor([1.0, -0.5, 0.2, -0.3]), 0.3), torch.tensor([0.7, -0.2, 0.0, 0.0]))
    vector = torch.randn(20, generator=seeded()).double()
    for strength in (0.05, 0.4, 1.5):
        for entry, shrunk in zip(vector.tolist(), proximal(vector, strength).tolist(), strict=True):
            aim = lambda x, entry=entry, strength=strength: 0.5 * (x - entry) ** 2 + strength * abs(x)
            assert shrunk == pytest.approx(minimize_scalar(aim, bounds=(-4, 4), method="bounded", options={"xatol": 1e-9}).x, abs=1e-5)


def test_thresholds_by_hand():
    vectors = {"a": torch.tensor([0.5, -0.01, 0.001, 0.002]), "b": torch.tensor([0.0, 0.0, -0.003])}
    kept = lambda threshold, least: [mask.int().tolist() for mask in thresholded(vectors, threshold, least).values()]
    assert kept(0.005, 1) == [[1, 1, 0, 0], [0, 0, 1]]
    assert kept(0.01, 1) == [[1, 1, 0, 0], [0, 0, 1]]  # what is as large stays
    assert kept(0.005, 3) == [[1, 1, 0, 1], [1, 1, 1]]
    assert kept(0.6, 1) == [[1, 0, 0, 0], [0, 0, 1]]
    assert kept(0.005, 4) == kept(0.005, 9) == [[1, 1, 1, 1], [1, 1, 1]]  # no more than there are
    assert [sum(row) for row in kept(9.0, 2)] == [2, 2] and kept(9.0, 2)[1][2] == 1  # of zeros exactly one


def test_the_cut_by_hand():
    vectors = {"a": torch.tensor([0.5, -0.01, 0.3, 0.002]), "b": torch.tensor([0.4, 0.1, -0.003])}
    cost = lambda kept: 10 * kept["a"] + kept["b"]
    keep = lambda budget: [mask.int().tolist() for mask in cut(vectors, 0.005, 1, cost, budget).values()]
    assert keep(100) == keep(32) == [[1, 1, 1, 0], [1, 1, 0]]  # the threshold itself: 30 + 2
    assert keep(31) == keep(22) == [[1, 0, 1, 0], [1, 1, 0]]  # up to 0.1: -0.01 goes, 20 + 2
    assert keep(21) == [[1, 0, 1, 0], [1, 0, 0]]
    assert keep(11) == keep(20) == [[1, 0, 0, 0], [1, 0, 0]]  # 0.3 goes
    with pytest.raises(ValueError, match=r"amount: a budget of 10 is out of reach, the least is 11"):
        keep(10)


@cache
def parts(build=resnet8):
    model = build(generator=seeded())
    groups = made_by_convolutions(model, removable_groups(model, EXAMPLE[:1]))
    return model, groups, Costs(model, groups, EXAMPLE[:1])


def test_layers_of_a_shortcut_share_a_latent_vector_and_each_reads_that_of_the_layer_before():
    model, groups, _ = parts()
    network = hyper(model, groups, 4, seeded())
    writer = lambda name: network.get_submodule(name).parametrizations.weight[0]
    stream = latents(network)["conv1"]
    assert writer("conv1").latent_out.vectors[0] is stream and writer("blocks.0.conv2").latent_out.vectors[0] is stream
    assert writer("blocks.1.shortcut.0").latent_in.vectors[0] is stream and writer("blocks.0.conv1").latent_in.vectors[0] is stream
    assert writer("conv1").latent_in.own.shape == (1,) and not len(writer("conv1").latent_in.vectors)
    assert set(latents(network)) == {group.name for group in groups}
    assert {name: len(vector) for name, vector in latents(network).items()} == {group.name: group.size for group in groups}
    trained = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert not any(name.endswith("original") for name in trained) and "fc.weight" in trained
    vectors = torch.cat([vector.detach() for vector in latents(network).values()])
    assert abs(vectors.mean()) < 0.4 and 0.7 < vectors.std() < 1.3 and len(set(vectors.tolist())) == len(vectors)


@pytest.mark.parametrize("build", [resnet8, convnet, mobilenet_small, densenet_small])
def test_what_comes_out_has_the_written_weights_cut(build):
    model, groups, cost = parts(build)
    names = [*dict(model.named_parameters()), *dict(model.named_buffers())]
    written, vectors = {}, {}

    def train(network, callbacks=()):
        if callbacks:
            network = fit(network, BATCHES, 2, callbacks)
            vectors.update({name: vector.detach().clone() for name, vector in latents(network).items()})
            for name in names:
                layer, _, kind = name.rpartition(".")
                written[name] = getattr(network.get_submodule(layer), kind).detach().clone()
        return network

    budget = 0.5 * cost({})
    small = dhp.prune(model, BATCHES, Budget(macs=budget), train=train, strength=1.0, least=1, embedding=3, generator=seeded())
    assert counting.macs(small, EXAMPLE[:1]) <= budget
    assert not any(parametrize.is_parametrized(module) for module in small.modules())
    assert all(parameter.requires_grad for parameter in small.parameters())
    kept = cut(vectors, 5e-3, 1, cost, budget)
    whole = copy.deepcopy(model)
    for name, tensor in [*whole.named_parameters(), *whole.named_buffers()]:
        tensor.data = written[name]
    expected = surgery.remove(whole, groups, kept)
    assert {name: tensor.shape for name, tensor in small.state_dict().items()} == {n: t.shape for n, t in expected.state_dict().items()}
    torch.testing.assert_close(small.eval()(EXAMPLE), expected.eval()(EXAMPLE))


def test_each_step_shrinks_by_strength_times_learning_rate():
    model, groups, cost = parts()
    network = hyper(model, groups, 3, seeded())
    before = {name: vector.detach().clone() for name, vector in latents(network).items()}
    with torch.no_grad():
        latents(network)["conv1"].mul_(1e-4)[:3].add_(1.0)  # of which three are above the threshold
    few = latents(network)["conv1"].detach().clone()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    Proximal(0.5, 5e-3, 3, cost, 0.0).after_step(network, optimizer)
    after = latents(network)
    torch.testing.assert_close(after["blocks.0.conv1"].detach(), proximal(before["blocks.0.conv1"], 0.05))
    assert torch.equal(after["conv1"], few)  # no more than `least` are left
    Proximal(0.5, 5e-3, 2, cost, 0.0).after_step(network, optimizer)
    torch.testing.assert_close(after["conv1"].detach(), proximal(few, 0.05))


def test_shrinking_rests_once_the_network_is_small_enough():
    model, groups, cost = parts()
    network = hyper(model, groups, 3, seeded())
    with torch.no_grad():
        for vector in latents(network).values():
            vector[: len(vector) // 2] = 1e-3
    half = cost({group.name: group.size - group.size // 2 for group in groups})
    before = [vector.detach().clone() for vector in latents(network).values()]
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    Proximal(0.5, 5e-3, 1, cost, half).after_step(network, optimizer)
    assert all(torch.equal(a, b) for a, b in zip(before, latents(network).values(), strict=True))
    Proximal(0.5, 5e-3, 1, cost, half - 1).after_step(network, optimizer)
    assert not any(torch.equal(a, b) for a, b in zip(before, latents(network).values(), strict=True))


def test_the_network_that_is_trained_is_another_and_so_are_the_draws():
    model, groups, _ = parts()
    one, same, other = (hyper(model, groups, 3, seeded(seed)) for seed in (0, 0, 1))
    state = lambda network: torch.cat([parameter.detach().flatten() for parameter in network.parameters()])
    assert torch.equal(state(one), state(same)) and not torch.equal(state(one), state(other))
    assert not parametrize.is_parametrized(model.conv1)


def test_refuses_what_cannot_be():
    model, _, cost = parts()
    with pytest.raises(ValueError, match=r"amount.*multiply-accumulates"):
        dhp.prune(model, BATCHES, Budget(seconds=1.0), train=fit)
    with pytest.raises(ValueError, match=r"amount: a budget of 100 is out of reach, the least is \d+"):
        dhp.prune(model, BATCHES, Budget(macs=100), train=fit)
    with pytest.raises(ValueError, match="train"):
        dhp.prune(model, BATCHES, Budget(macs=0.5 * cost({})))


@pytest.mark.claim
def test_widths_come_out_of_one_training_that_costs_no_accuracy():
    # the cost of what reaches the threshold, and the accuracy of the network with its hypernetworks, after one training with the
    # proximal operator and one without
    (inputs, targets), (test_inputs, test_targets) = digits()
    share, reached = {0.05: 0.0, 0.0: 0.0}, {0.05: 0.0, 0.0: 0.0}
    for seed in range(3):
        train = batches(inputs, targets, 64, seeded(seed))
        model = convnet((16, 16, 16, 32), generator=seeded(seed))
        groups = made_by_convolutions(model, removable_groups(model, EXAMPLE[:1]))
        cost = Costs(model, groups, EXAMPLE[:1])
        for strength in share:
            rule = Proximal(strength, 5e-3, 2, cost, 0.3 * cost({}))
            optimizer = partial(momentum_sgd, learning_rate=0.05)
            network = fit(hyper(model, groups, 8, seeded(seed)), train, 12, [rule], optimizer=optimizer)
            share[strength] += cost(dhp.counts(thresholded(latents(network), 5e-3, 2))) / cost({}) / 3
            reached[strength] += accuracy(network, [(test_inputs, test_targets)]) / 3
    assert share[0.05] < 0.5 and share[0.0] > 0.95
    assert reached[0.05] > reached[0.0] - 0.02
