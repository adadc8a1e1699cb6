"""Channel pruning by lasso (he2017channel): by hand, against scikit-learn's coordinate descent, the refit's optimum, and its claim."""

import copy
import itertools

import numpy as np
import pytest
import torch
from sklearn.linear_model import Lasso
from torch import nn

from reference_impls.after_training import lasso_channel_pruning
from reference_impls.core.structures import removable_groups, weights_among
from reference_impls.core.surgery import remove
from reference_impls.core.training import accuracy, fit, momentum_sgd
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import convnet, resnet8

IMAGES = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_orthogonal_terms_are_kept_by_their_correlation_by_hand():
    # with G = diag(1, 4, 1, 1) the factor is S(r_i, lambda) / G_ii: a channel comes in at lambda = |r_i|: 3, then 2, then 1.5, then 1.
    # By the unpenalized factor r_i / G_ii (1.5, 0.75, -2, 1) or by size with sign the order would be another
    gram, correlation = torch.diag(torch.tensor([1.0, 4.0, 1.0, 1.0])), torch.tensor([1.5, 3.0, -2.0, 1.0])
    for count, kept in ((1, [1]), (2, [1, 2]), (3, [0, 1, 2]), (4, [0, 1, 2, 3])):
        assert lasso_channel_pruning.select(gram, correlation, count).nonzero().flatten().tolist() == kept


def test_of_two_channels_that_say_the_same_one_is_enough():
    # terms (1, 0), (1, 0.01) and (0, 0.5), output their sum (2, 0.51): the second correlates most; with it in, the third is left over
    terms, output = torch.tensor([[1.0, 0.0], [1.0, 0.01], [0.0, 0.5]]), torch.tensor([2.0, 0.51])
    assert lasso_channel_pruning.select(terms @ terms.T, terms @ output, 2).tolist() == [False, True, True]


@pytest.mark.parametrize("seed", range(4))
def test_same_channels_as_coordinate_descent_with_a_penalty_that_rises(seed):
    # another algorithm for the same problem: at the largest penalty with that many factors, found by bisection
    terms = torch.randn(40, 8, generator=seeded(seed), dtype=torch.float64) @ torch.randn(8, 8, generator=seeded(seed + 9)).double()
    output = terms.sum(1) + 0.1 * torch.randn(40, generator=seeded(seed + 99))
    for count in (2, 4, 6):
        low, high = 0.0, float((terms.T @ output).abs().max())
        for _ in range(40):
            middle = (low + high) / 2
            found = Lasso(alpha=middle / 40, fit_intercept=False, max_iter=100_000, tol=1e-10).fit(terms.numpy(), output.numpy()).coef_
            low, high = (middle, high) if np.count_nonzero(found) >= count else (low, middle)
        peer = Lasso(alpha=low / 40, fit_intercept=False, max_iter=100_000, tol=1e-10).fit(terms.numpy(), output.numpy()).coef_
        ours = lasso_channel_pruning.select(terms.T @ terms, terms.T @ output, count)
        assert ours.tolist() == (peer != 0).tolist() and int(ours.sum()) == count


def test_silent_channels_fill_up_what_is_asked():
    # of four the last two say something; the third to stay is the first of the silent ones
    gram, correlation = torch.diag(torch.tensor([0.0, 0.0, 1.0, 4.0])), torch.tensor([0.0, 0.0, 1.0, 3.0])
    assert lasso_channel_pruning.select(gram, correlation, 3).tolist() == [True, False, True, True]


def linear(*columns):
    """Channels that a linear layer reads with the given weights."""
    model = nn.Sequential(nn.Linear(1, len(columns)), nn.ReLU(), nn.Linear(len(columns), 1))
    model[2].weight.data = torch.tensor([columns])
    return model


def read(model, name, reader):
    [group] = [each for each in removable_groups(model, torch.ones(1, 1)) if each.name == name]
    return group, next(member for member, _ in weights_among(model, group.consumers) if member.layer == reader)


def test_terms_are_taken_with_weights_of_norm_one():
    # three channels that are never on together, of mean squares 1, 6 and 9 and weights 2, 0.5 and 0. Their correlations with the output, at
    # norm one: |w| v = 2, 3, 0, so the second stays; with the weights as they are, w^2 v = 4, 1.5, 0
    model = linear(2.0, 0.5, 0.0)
    x = torch.tensor([[3.0**0.5, 0.0, 0.0], [0.0, 18.0**0.5, 0.0], [0.0, 0.0, 27.0**0.5]], dtype=torch.float64)
    y = x @ model[2].weight.detach().double().T
    small = lasso_channel_pruning.thin(model, *read(model, "0", "2"), x, y, 2 / 3)
    torch.testing.assert_close(small[2].weight.detach(), torch.tensor([[0.5]]))


def test_what_is_read_from_elsewhere_stays_and_is_taken_off_the_output():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.other, self.reader = nn.Linear(1, 2), nn.Linear(1, 2), nn.Linear(4, 1)

        def forward(self, inputs):
            return self.reader(torch.cat([self.one(inputs).relu(), self.other(inputs).relu()], 1))

    model = Two()
    model.reader.weight.data = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    x = torch.randn(50, 4, generator=seeded(), dtype=torch.float64)
    x[:, 1] = x[:, 0]  # the first two say the same, so one of them is enough
    y = x @ model.reader.weight.detach().double().T
    small = lasso_channel_pruning.thin(model, *read(model, "one", "reader"), x, y, 0.5)
    # 1 + 2 = 3 for the one that stays, 3 and 4 as they were
    torch.testing.assert_close(small.reader.weight.detach(), torch.tensor([[3.0, 3.0, 4.0]]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "given", [{"kernel_size": 3, "padding": 1}, {"kernel_size": (2, 3), "stride": (2, 1), "dilation": 2, "bias": False}]
)
def test_patches_times_weights_are_the_layers_output(given):
    torch.manual_seed(0)
    layer, inputs = nn.Conv2d(3, 5, **given), torch.randn(2, 3, 8, 8)
    rows = lasso_channel_pruning.patches(layer, inputs) @ layer.weight.flatten(1).T
    expected = layer(inputs) - (0 if layer.bias is None else layer.bias[:, None, None])
    torch.testing.assert_close(rows, expected.flatten(2).transpose(1, 2))


def pair():
    """A dense network, and a copy whose first layer is another."""
    model = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
    torch.manual_seed(1)
    other = copy.deepcopy(model)
    other[0].weight.data.normal_()
    return model, other


def test_samples_pair_what_the_pruned_network_reads_with_what_the_dense_one_gives():
    dense, pruned = pair()
    x, y = lasso_channel_pruning.samples(pruned, dense, "2", [(IMAGES[:4], None), (IMAGES[4:], None)], 5, seeded())
    assert x.shape == (30, 27) and y.shape == (30, 4) and x.dtype == y.dtype == torch.float64
    read = lasso_channel_pruning.patches(pruned[2], pruned[:2](IMAGES)).double()
    whole = lasso_channel_pruning.patches(dense[2], dense[:2](IMAGES)).double() @ dense[2].weight.flatten(1).double().T
    for place, (row, output) in enumerate(zip(x, y, strict=True)):
        found = (read[place // 5] == row).all(1).nonzero().flatten()
        assert any(torch.allclose(whole[place // 5, at], output) for at in found)
    assert not dense[2]._forward_pre_hooks and not pruned[2]._forward_pre_hooks


def test_the_refitted_weights_are_the_least_squares_optimum():
    dense, _ = pair()
    [group] = [each for each in removable_groups(dense, IMAGES[:1]) if each.name == "0"]
    [(reader, _)] = weights_among(dense, group.consumers)
    x, y = lasso_channel_pruning.samples(dense, dense, "2", [(IMAGES, None)], 20, seeded())
    small = lasso_channel_pruning.thin(copy.deepcopy(dense), group, reader, x, y, 1 / 3)
    kept = [place for place in range(3) if any(torch.equal(dense[0].weight[place], row) for row in small[0].weight)]
    columns = [place * 9 + at for place in kept for at in range(9)]
    best = np.linalg.lstsq(x[:, columns].detach().numpy(), y.detach().numpy(), rcond=None)[0].T
    np.testing.assert_allclose(small[2].weight.detach().flatten(1).numpy(), best, rtol=1e-3, atol=1e-4)
    assert torch.equal(small[2].bias, dense[2].bias) and len(kept) == 2
    # the channel that went was the one to go: no other pair reproduces the output better
    errors = {}
    for two in itertools.combinations(range(3), 2):
        own = x[:, [place * 9 + at for place in two for at in range(9)]]
        errors[two] = float((y - own @ torch.linalg.lstsq(own, y).solution).square().sum())
    assert min(errors, key=errors.get) == tuple(kept)


def test_a_reader_of_flattened_maps_is_refitted_to_all_pixels_of_a_channel():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))
    model[0].weight.data[1] = model[0].weight.data[3]  # two channels that say the same: one of them is enough
    model[0].bias.data[1] = model[0].bias.data[3]
    model[3].weight.data[:, 36:72] = model[3].weight.data[:, 108:]
    images = torch.randn(400, 1, 8, 8)
    small = lasso_channel_pruning.prune(model, [(images, None)], 0.25)
    torch.testing.assert_close(small(images), model(images), rtol=1e-3, atol=1e-3)
    assert small[3].in_features == 108


def test_errors_do_not_add_up_the_output_to_meet_is_the_dense_networks():
    model = convnet(generator=seeded()).eval()
    seen = []
    plain = lasso_channel_pruning.samples
    try:
        lasso_channel_pruning.samples = lambda work, dense, *more: seen.append((work, dense)) or plain(work, dense, *more)
        lasso_channel_pruning.prune(model, [(IMAGES, None)], 0.5, generator=seeded())
    finally:
        lasso_channel_pruning.samples = plain
    assert len(seen) == 5
    for work, dense in seen[1:]:
        assert all(torch.equal(value, dense.state_dict()[name]) for name, value in model.state_dict().items())
        assert work.features[0].out_channels == 4


def test_only_channels_that_one_layer_makes_and_one_reads():
    small = lasso_channel_pruning.prune(resnet8(generator=seeded()), [(IMAGES, None)], 0.5)
    assert small.conv1.out_channels == 8
    assert [block.conv1.out_channels for block in small.blocks] == [4, 8, 16]
    assert [block.conv2.out_channels for block in small.blocks] == [8, 16, 32]
    one_left = lasso_channel_pruning.prune(convnet(), [(IMAGES, None)], 0.99)
    assert [layer.out_channels for layer in one_left.features if isinstance(layer, nn.Conv2d)] == [1, 1, 1, 1]


def test_fine_tunes_once_and_refuses_no_places():
    seen = []
    lasso_channel_pruning.prune(convnet(), [(IMAGES, None)], 0.5, train=lambda network: seen.append(1) or network)
    assert seen == [1]
    with pytest.raises(ValueError, match="places"):
        lasso_channel_pruning.prune(convnet(), [(IMAGES, None)], 0.5, places=0)
    lonely = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU())
    with pytest.raises(ValueError, match="nothing to prune"):
        lasso_channel_pruning.prune(lonely, [(IMAGES, None)], 0.5)


@pytest.mark.claim
def test_refitted_weights_keep_the_accuracy_without_any_training():
    # half of each layer's channels, of which the lasso keeps the same, with and without the refit of the layer that reads them
    (inputs, targets), test = digits()
    for seed in range(3):
        generator = seeded(seed)
        data = batches(inputs, targets, 64, generator)
        model = fit(convnet(generator=generator), data, 4, optimizer=lambda p: momentum_sgd(p, 0.05))
        refitted = lasso_channel_pruning.prune(model, data[:8], 0.5, generator=seeded())
        plain = model
        for group in removable_groups(model, inputs[:1]):  # what was kept shows in the weights of the layer that makes it
            before, after = (network.get_submodule(group.name).bias for network in (model, refitted))
            plain = remove(plain, [group], {group.name: torch.isin(before, after)})
        assert accuracy(refitted, [test]) > accuracy(plain, [test]) + 0.3
        assert accuracy(refitted, [test]) > accuracy(model, [test]) - 0.15
