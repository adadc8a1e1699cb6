"""ResRep (ding2021resrep): by hand, by what merging must not change, by where compactors belong, and without resetting gradients."""

import copy
from functools import partial

import pytest
import torch
from torch import nn

from reference_impls.after_training import resrep
from reference_impls.core import counting
from reference_impls.core.amounts import Budget, Sparsity
from reference_impls.core.training import accuracy, fit, momentum_sgd
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import convnet, densenet_small, mlp, mobilenet_small, resnet8

EXAMPLE = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
BATCHES = [(EXAMPLE, torch.tensor([0, 1, 2, 3]))]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def prepared(model, amount=0.5, steps=100, **options):
    """The model with compactors in place, and the callback that put them there."""
    callback = resrep.callbacks(model, amount, steps=steps, **options)[0]
    optimizer = momentum_sgd(list(model.parameters()))
    callback.start(model, optimizer)
    model.eval()(EXAMPLE)
    return callback, optimizer


def scrambled(build=resnet8):
    """With compactors and normalizations as in the middle of training."""
    model, generator = build(generator=seeded()), seeded(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.running_mean, module.running_var, module.bias.data):
                tensor.uniform_(0.5, 1.5, generator=generator)
    callback, _ = prepared(model)
    for weight in callback.compactors.values():
        weight.data += 0.3 * torch.randn(weight.shape, generator=generator)
    return model, callback


def test_the_gradient_by_hand():
    # rows (3, 4) and (0, 2), of norms 5 and 2, lambda = 0.1; the loss's gradient counts in the kept row only
    # row 0: (1, 2) + 0.1 * (0.6, 0.8) = (1.06, 2.08); row 1: 0 + 0.1 * (0, 1) = (0, 0.1)
    found = resrep.compactor_gradient(
        torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[3.0, 4.0], [0.0, 2.0]]), torch.tensor([True, False]), 0.1
    )
    torch.testing.assert_close(found, torch.tensor([[1.06, 2.08], [0.0, 0.1]]))
    zero = resrep.compactor_gradient(torch.ones(2, 2), torch.zeros(2, 2), torch.tensor([False, True]), 0.1)
    assert zero.tolist() == [[0.0, 0.0], [1.0, 1.0]]


def test_the_choice_by_hand():
    # norms: layer a 0.3, 0.1, 5; layer b 0.2, 4. Of five rows 0.6 * 5 = 3 go: 0.1, 0.2, 0.3; with a limit of 0.4 only two
    callback = resrep.ResRep(Sparsity(0.6), 0.1, 0.99, 100)
    callback.compactors = {"a": torch.diag(torch.tensor([0.3, 0.1, 5.0])), "b": torch.tensor([[0.0, 0.2], [4.0, 0.0]])}
    callback.choose(1.0)
    assert {name: kept.tolist() for name, kept in callback.kept.items()} == {"a": [False, False, True], "b": [False, True]}
    callback.choose(0.4)
    assert {name: kept.tolist() for name, kept in callback.kept.items()} == {"a": [True, False, True], "b": [False, True]}
    callback.compactors["a"][1, 1] = 9.0  # rows are chosen anew
    callback.choose(0.4)
    assert {name: kept.tolist() for name, kept in callback.kept.items()} == {"a": [False, True, True], "b": [False, True]}
    # columns do not count
    callback.compactors = {"a": torch.tensor([[0.1, 0.1], [9.0, 0.0]])}
    callback.choose(1.0)
    assert callback.kept["a"].tolist() == [False, True]


def test_merging_by_hand():
    # 1x1 convolution with weights (1, 2) and bias (0, 1); normalization of scale (2, 1), shift (1, 0), mean (0, 1), variance 1: 2 w x + 1
    # and 2 x + 1 - 1, so K = (2, 2), b = (1, 0). Q = ((1, 3), (0, 1)): Q K = (8, 2), Q b = (1, 0)
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2, eps=0), nn.Conv2d(2, 1, 1))
    model[0].weight.data, model[0].bias.data = torch.tensor([1.0, 2.0])[:, None, None, None], torch.tensor([0.0, 1.0])
    model[1].weight.data, model[1].bias.data = torch.tensor([2.0, 1.0]), torch.tensor([1.0, 0.0])
    model[1].running_mean = torch.tensor([0.0, 1.0])
    compactor = resrep.Compactor(model[0].weight)
    assert torch.equal(compactor.weight, torch.eye(2))
    compactor.weight.data = torch.tensor([[1.0, 3.0], [0.0, 1.0]])
    model[1] = nn.Sequential(model[1], compactor)
    merged = resrep.merge(model, [resrep.Site("0", "1")])
    torch.testing.assert_close(merged[0].weight.flatten().data, torch.tensor([8.0, 2.0]))
    torch.testing.assert_close(merged[0].bias.data, torch.tensor([1.0, 0.0]))
    assert isinstance(merged[1], nn.Identity)
    assert isinstance(model[1], nn.Sequential)


@pytest.mark.parametrize("build", [resnet8, convnet])
def test_compactors_change_nothing_at_first_and_merging_changes_nothing_ever(build):
    dense = build(generator=seeded()).eval()
    expected = dense(EXAMPLE)
    prepared(dense)
    torch.testing.assert_close(dense(EXAMPLE), expected, rtol=1e-5, atol=1e-5)
    model, callback = scrambled(build)
    torch.testing.assert_close(resrep.merge(model, callback.sites)(EXAMPLE), model.eval()(EXAMPLE), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("build", [resnet8, convnet])
def test_channels_whose_rows_are_zero_go_without_loss(build):
    model, callback = scrambled(build)
    for weight in callback.compactors.values():
        weight.data[: len(weight) // 2] = 0
    small = callback.finish(model)
    torch.testing.assert_close(small(EXAMPLE), model.eval()(EXAMPLE), rtol=1e-4, atol=1e-4)
    for site in callback.sites:
        assert small.get_submodule(site.convolution).out_channels == len(callback.compactors[site.convolution]) // 2
    assert not any(isinstance(module, resrep.Compactor) for module in small.modules())


def test_a_convolution_without_normalization_gets_a_compactor_too():
    model = nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.ReLU(), nn.Conv2d(4, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 2))
    callback, _ = prepared(model)
    assert callback.sites == [resrep.Site("0", ""), resrep.Site("2", "")]
    for weight in callback.compactors.values():
        weight.data += 0.3 * torch.randn(weight.shape, generator=seeded())
    torch.testing.assert_close(resrep.merge(model, callback.sites)(EXAMPLE), model(EXAMPLE), rtol=1e-4, atol=1e-5)


def test_only_channels_that_one_convolution_makes_get_one():
    # inside the blocks of a residual network; not the stream, not what a depthwise convolution passes on, not neurons
    assert resrep.sites(resnet8(), EXAMPLE) == [resrep.Site(f"blocks.{i}.conv1", f"blocks.{i}.bn1") for i in range(3)]
    assert resrep.sites(convnet(), EXAMPLE) == [resrep.Site(f"features.{i}", f"features.{i + 1}") for i in (0, 3, 7, 10)]
    for build in (mobilenet_small, densenet_small, mlp):  # a concatenation is normalized together with others
        with pytest.raises(ValueError, match="nothing to prune"):
            resrep.sites(build(), EXAMPLE)
    behind_relu = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 3), nn.Flatten(), nn.Linear(32, 2))
    assert resrep.sites(behind_relu, EXAMPLE) == [resrep.Site("3", "")]
    model = resnet8()
    resrep.sites(model, EXAMPLE)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_compactors_have_a_momentum_of_their_own_and_no_weight_decay():
    callback, optimizer = prepared(resnet8())
    own = optimizer.param_groups[1:]
    assert [group["params"][0] is weight for group, weight in zip(own, callback.compactors.values(), strict=True)] == [True] * 3
    assert {(group["momentum"], group["weight_decay"]) for group in own} == {(0.99, 0.0)}


@pytest.mark.parametrize(
    ("steps", "fraction", "expected"),
    [
        # 56 rows in all; chosen when 2 more steps of 100 are done; at step s at most 56 (s - 10) / 40, at most the 28 that are asked
        (100, 0.5, [0] * 12 + [2, 2, 5, 5, 8, 8, 11, 11, 14, 14, 16, 16, 19, 19, 22, 22, 25, 25] + [28] * 30),
        (170, 0.5, [0] * 20 + [2] * 3 + [4] * 3 + [7] * 3 + [9] * 3),  # every third step, 56 (s - 17) / 68
        (20, 0.5, [0, 0, 0, 7, 14, 21, 28, 28]),  # every step, 56 (s - 2) / 8
        (2, 0.9, [0, 50]),  # all at once
    ],
)
def test_the_limit_grows_from_a_tenth_of_the_run_to_its_half(steps, fraction, expected):
    model = resnet8(generator=seeded())
    callback, optimizer = prepared(model, fraction, steps)
    gone = []
    for _ in expected:
        for weight in callback.compactors.values():
            weight.grad = torch.zeros_like(weight)
        callback.after_backward(model, optimizer)
        gone.append(sum(int((~kept).sum()) for kept in callback.kept.values()))
    assert gone == expected


def test_of_a_budget_no_more_goes_than_needed():
    model = resnet8(generator=seeded())
    dense = counting.macs(model, EXAMPLE[:1])
    callback, _ = prepared(model, Budget(macs=0.7 * dense))
    for seed, weight in enumerate(callback.compactors.values()):
        weight.data += 0.3 * torch.randn(weight.shape, generator=seeded(seed))
    small = callback.finish(model)
    assert counting.macs(small, EXAMPLE[:1]) <= 0.7 * dense
    norms = {name: weight.norm(dim=1) for name, weight in callback.compactors.items()}
    last = max((norm.item(), name) for name, own in norms.items() for norm in own[~callback.kept[name]])[1]  # the strongest that went
    counts = {name: int(kept.sum()) + (name == last) for name, kept in callback.kept.items()}
    assert callback.costs(counts) > 0.7 * dense
    with pytest.raises(ValueError, match="cannot be reached"):
        prepared(resnet8(generator=seeded()), Budget(macs=10.0))


def test_bad_arguments_are_refused():
    for amount, options, named in ((Budget(bytes=9.0), {}, "amount"), (0.5, {"steps": 0}, "steps"), (0.5, {"strength": -1.0}, "strength")):
        with pytest.raises(ValueError, match=named):
            resrep.callbacks(resnet8(), amount, **({"steps": 10} | options))


class NeverReset(resrep.ResRep):
    """The paper's ablation: the same penalty and the same choice, but the loss is felt in every row."""

    def after_backward(self, model, optimizer):
        self.kept = {name: torch.ones_like(kept) for name, kept in self.kept.items()}
        self.steps, steps = 1000000, self.steps  # no choice while training
        super().after_backward(model, optimizer)
        self.steps = steps


@pytest.mark.claim
def test_with_the_resetting_of_gradients_channels_go_without_loss_and_without_it_they_do_not():
    # two fifths of the channels with a compactor go right after the training, no fine-tuning. The penalty must be weak beside the loss and
    # its way long, or it harms what is kept: with a strength of 0.05 and momentum 0.9 both lost a tenth of the accuracy while training
    (inputs, targets), (test_inputs, test_targets) = digits()
    test = batches(test_inputs, test_targets, 360)
    optimizer = partial(momentum_sgd, learning_rate=0.03)
    seen = {resrep.ResRep: [], NeverReset: []}
    for seed in range(3):
        train = batches(inputs, targets, 64, seeded(seed))
        model = fit(convnet((16, 16, 32, 32), generator=seeded(seed)), train, 3, optimizer=optimizer)
        for kind, results in seen.items():
            trained = copy.deepcopy(model)
            small = fit(trained, train, 10, [kind(Sparsity(0.4), 0.01, 0.99, 10 * len(train))], optimizer=optimizer)
            results.append(torch.tensor([accuracy(model, test), accuracy(trained, test), accuracy(small, test)]))
    (dense, before, after), (_, _, worse) = (sum(results) / 3 for results in seen.values())
    assert after > before - 0.03
    assert after > dense - 0.03
    assert after > worse + 0.08
