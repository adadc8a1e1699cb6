"""SSS (huang2018data): by hand, against brute force and the accelerated method with two points, and by its claim."""

import copy
from functools import partial

import pytest
import torch
from torch import nn

from reference_impls.core import counting
from reference_impls.core.amounts import Strength
from reference_impls.core.training import Callback, accuracy, cross_entropy, fit, momentum_sgd
from reference_impls.during_training import sparse_structure_selection as sss
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import ResNet, convnet, densenet_small, mobilenet_small, resnet8

IMAGES = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
BATCHES = [(IMAGES, torch.tensor([0, 1, 2, 0, 1, 2]))]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def double(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_by_hand():
    # eta 0.1, gamma 2, mu 0.5: the threshold is 0.2
    # 1 - 0.1 * 3 = 0.7, shrunk 0.5; v = 0.5 - 1 + 0.5 * 0.4 = -0.3; 0.5 + 0.5 * (-0.3) = 0.35
    # 0.2 - 0.1 * 1 = 0.1, shrunk 0; v = 0 - 0.2 + 0.5 * 0.1 = -0.15; 0 - 0.075 < 0, so 0
    # 0 - 0.1 * (-5) = 0.5, shrunk 0.3; v = 0.3 + 0.5 * 0 = 0.3; 0.3 + 0.15 = 0.45
    # 0 - 0.1 * 5 = -0.5, shrunk -0.3; v = -0.3; -0.3 - 0.15 < 0, so 0
    factor, velocity = sss.proximal_step(double(1.0, 0.2, 0.0, 0.0), double(3.0, 1.0, -5.0, 5.0), double(0.4, 0.1, 0.0, 0.0), 0.1, 2.0, 0.5)
    assert factor.tolist() == pytest.approx([0.35, 0, 0.45, 0])
    assert velocity.tolist() == pytest.approx([-0.3, -0.15, 0.3, -0.3])


def test_without_momentum_a_step_is_the_least_of_the_proximal_problem():
    # min over x >= 0 of 1/2 (x - (lambda - eta g))^2 + eta gamma x, by trying
    grid = torch.linspace(0, 3, 300_001, dtype=torch.float64)
    for factor, gradient, rate, strength in ((1.0, 2.0, 0.3, 0.5), (0.4, -1.5, 0.2, 3.0), (0.3, 0.1, 0.5, 1.0), (2.0, -1.0, 0.1, 0.0)):
        tried = 0.5 * (grid - (factor - rate * gradient)) ** 2 + rate * strength * grid
        found = sss.proximal_step(double(factor), double(gradient), double(0.0), rate, strength, 0.0)[0]
        assert found.item() == pytest.approx(grid[tried.argmin()].item(), abs=1e-5)


def test_with_momentum_it_is_the_accelerated_proximal_gradient_method_of_two_points():
    # look ahead d = lambda_t + mu (lambda_t - lambda_{t-1}), then lambda_{t+1} = S(d - eta grad(d)): the factor in use is d
    generator = seeded(5)
    curvature, least = torch.rand(8, generator=generator).double() + 0.5, torch.rand(8, generator=generator).double() * 3 + 1
    rate, strength, momentum = 0.2, 0.3, 0.6
    factor, velocity = torch.full((8,), 2.0).double(), torch.zeros(8).double()
    before, now = factor.clone(), factor.clone()
    for _ in range(12):
        ahead = now + momentum * (now - before)
        torch.testing.assert_close(factor, ahead)
        moved = ahead - rate * curvature * (ahead - least)
        before, now = now, torch.where(moved.abs() > rate * strength, moved - rate * strength * moved.sign(), 0.0)
        factor, velocity = sss.proximal_step(factor, curvature * (factor - least), velocity, rate, strength, momentum)
    for _ in range(300):
        factor, velocity = sss.proximal_step(factor, curvature * (factor - least), velocity, rate, strength, momentum)
    torch.testing.assert_close(factor, least - strength / curvature)  # the solution of the penalized problem


def test_finds_the_branches_of_residual_networks():
    names = [branch.modules for branch in sss.branches(resnet8())]
    assert names == [tuple(f"blocks.{i}.{part}" for part in ("bn2", "conv2", "bn1", "conv1")) for i in range(3)]
    assert [branch.modules[0] for branch in sss.branches(mobilenet_small())] == ["blocks.0.project.1", "blocks.2.project.1"]
    for build in (convnet, densenet_small):
        with pytest.raises(ValueError, match="no residual branch"):
            sss.branches(build())


class Sum(nn.Module):
    """A sum of two ways from one point, each made of the given modules."""

    def __init__(self, one, other, after=None):
        super().__init__()
        self.one, self.other, self.after = one, other, after

    def forward(self, x):
        return (self.after(self.one(x)) if self.after else self.one(x)) + self.other(x)


def test_what_cannot_be_scaled_is_no_branch():
    convolution, norm = partial(nn.Conv2d, 1, 1, 1), nn.BatchNorm2d(1)
    assert [branch.modules for branch in sss.branches(Sum(nn.Identity(), convolution()))] == [("other",)]
    assert [b.modules for b in sss.branches(Sum(nn.Sequential(convolution(), norm), nn.Sequential()))] == [("one.1", "one.0")]
    frozen = nn.Sequential(convolution(), nn.BatchNorm2d(1))
    frozen[0].bias.requires_grad_(False)
    for model in (
        Sum(nn.Sequential(convolution(), nn.PReLU()), nn.Identity()),  # a factor would not melt into the activation
        Sum(convolution(), nn.Identity(), torch.sigmoid),  # nor go past it
        Sum(nn.Sequential(convolution(), nn.BatchNorm2d(1, affine=False)), nn.Identity()),
        Sum(nn.ReLU(), nn.Identity()),
        Sum(frozen, nn.Identity()),
    ):
        with pytest.raises(ValueError, match="no residual branch"):
            sss.branches(model)

    class Depends(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(ValueError, match="cannot be traced"):
        sss.branches(Depends())


def test_two_steps_of_training_are_those_of_a_network_that_multiplies():
    model, momentum = resnet8(generator=seeded()).double(), 0.5
    theirs = copy.deepcopy(model).train()
    selection = sss.callbacks(model, Strength(0.4), momentum=momentum)
    fit(model, BATCHES, 2, selection, optimizer=partial(torch.optim.SGD, lr=0.1))

    factors, velocities = [double(1.0)[0] for _ in range(3)], [double(0.0)[0] for _ in range(3)]
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.1)
    for _ in range(2):
        factors = [factor.requires_grad_() for factor in factors]
        hidden = theirs.bn1(theirs.conv1(IMAGES)).relu()
        for block, factor in zip(theirs.blocks, factors, strict=True):
            branch = block.bn2(block.conv2(block.bn1(block.conv1(hidden)).relu()))
            hidden = (factor * branch + block.shortcut(hidden)).relu()
        optimizer.zero_grad()
        cross_entropy(theirs.fc(hidden.mean((2, 3))), BATCHES[0][1]).backward()
        optimizer.step()
        for i, factor in enumerate(factors):
            shrunk = (factor - 0.1 * factor.grad).detach() - 0.1 * 0.4
            velocities[i] = shrunk - factor.detach() + momentum * velocities[i]
            factors[i] = shrunk + momentum * velocities[i]
    assert [factor.item() for factor in selection[0].factors.values()] == pytest.approx([factor.item() for factor in factors])
    for name, tensor in model.named_parameters():
        expected = theirs.get_parameter(name)
        melted = factors[int(name.split(".")[1])] if ".bn2." in name else 1.0
        torch.testing.assert_close(tensor, expected * melted, msg=name)


def test_the_smaller_network_computes_what_the_scaled_one_does():
    model = resnet8(generator=seeded()).double()
    model.train()(IMAGES)
    selection = sss.callbacks(model, Strength(0.1))[0]
    selection.start(model, torch.optim.SGD(model.parameters(), lr=0.1))
    for name, value in zip(selection.factors, (0.7, 0.0, 1.3), strict=True):
        selection.factors[name] = double(value)[0]
    scaled = model.eval()(IMAGES)
    dense, small = counting.parameters(model), selection.finish(model)
    torch.testing.assert_close(small(IMAGES), scaled)
    # the second block had 16 * 8 * 9 + 16 * 16 * 9 weights and 2 * 32 of its norms; its shortcut stays
    assert dense - counting.parameters(small) == 1152 + 2304 + 64
    assert not any(module._forward_hooks for module in small.modules())


@pytest.mark.parametrize("momentum", [-0.1, 1.0, float("nan")])
def test_refuses_a_momentum_out_of_range(momentum):
    with pytest.raises(ValueError, match="momentum"):
        sss.callbacks(resnet8(), Strength(0.1), momentum=momentum)


class Subgradient(sss.Selection):
    """The wrong variant: the penalty's subgradient is followed, with momentum, and nothing stops at zero."""

    def after_step(self, model, optimizer):
        for name, factor in self.factors.items():
            self.velocities[name] = self.momentum * self.velocities[name] + factor.grad + self.strength * factor.detach().sign()
            self.factors[name] = (factor.detach() - optimizer.param_groups[0]["lr"] * self.velocities[name]).requires_grad_()


class Smallest(Callback):
    """Zeroes the smallest factors in the end, whatever they are."""

    def __init__(self, selection, count):
        self.selection, self.count = selection, count

    def finish(self, model):
        factors = self.selection.factors
        for name in sorted(factors, key=lambda name: factors[name].item())[: self.count]:
            factors[name] = torch.zeros(())
        return model


@pytest.mark.claim
def test_blocks_go_in_one_training_with_little_harm():
    # rivals: the same training without penalty, then as many branches with the smallest factors go; and the penalty by its subgradient
    (inputs, targets), (test_inputs, test_targets) = digits()
    test, slow = batches(test_inputs, test_targets, 360), partial(momentum_sgd, learning_rate=0.05)
    selected, smallest, gone = 0.0, 0.0, []
    for seed in range(3):
        train = batches(inputs, targets, 64, seeded(seed))
        torch.manual_seed(seed)
        model = ResNet(3, 8, 1, 10)
        rival = copy.deepcopy(model)
        small = fit(model, train, 5, sss.callbacks(model, Strength(0.3)), optimizer=slow)
        gone.append(sum(isinstance(module, sss.Nothing) for module in small.modules()))
        free = sss.callbacks(rival, Strength(0.0))[0]
        rival = fit(rival, train, 5, [Smallest(free, gone[-1]), free], optimizer=slow)
        selected += accuracy(small, test) / 3
        smallest += accuracy(rival, test) / 3
    assert min(gone) >= 3  # of nine
    assert selected > 0.9
    assert selected > smallest + 0.3
    wrong = Subgradient(0.3, 0.9)
    fit(resnet8(), train, 5, [wrong], optimizer=slow)
    assert all(factor != 0 for factor in wrong.factors.values())
