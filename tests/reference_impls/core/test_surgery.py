"""Removal: smaller tensors with the outputs of the masked network, on every kind of network, and exact counts by hand."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn

from reference_impls.core.counting import macs, parameters
from reference_impls.core.groups import dependency_groups
from reference_impls.core.surgery import masked, remove
from reference_impls.zoo import networks

BUILDS = {
    "lenet_300_100": networks.lenet_300_100,
    "convnet": networks.convnet,
    "residual": networks.resnet8,
    "concatenation": networks.densenet_small,
    "depthwise": networks.mobilenet_small,
    "vit": networks.vit_small,
    "grouped queries, gated MLP": networks.llama_small,
    "tied embedding": lambda **options: networks.llama_small(tied=True, **options),
    "gpt": networks.gpt_small,
    "grouped convolution": lambda generator: nn.Sequential(
        nn.Conv2d(1, 8, 3),
        nn.ReLU(),
        nn.Conv2d(8, 12, 3, groups=4),
        nn.BatchNorm2d(12),
        nn.Conv2d(12, 8, 1),
        nn.Flatten(),
        nn.Linear(128, 3),
    ),
    "depthwise with a multiplier, transposed": lambda generator: nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.Conv2d(6, 12, 3, groups=6), nn.BatchNorm2d(12), nn.ReLU(), nn.ConvTranspose2d(12, 5, 2), nn.Conv2d(5, 2, 1)
    ),
}


def example(model, seed=0):
    generator = torch.Generator().manual_seed(seed)
    if hasattr(model, "embedding"):
        return torch.randint(64, (3, 6), generator=generator)
    return torch.randn(3, 1, 8, 8, generator=generator)


def built(name):
    """The network with norms whose statistics, scales and shifts are far from the identity, and large enough to differ by."""
    generator = torch.Generator().manual_seed(1)
    model = BUILDS[name](generator=generator).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                tensor.data.uniform_(0.5, 2, generator=generator)
        elif isinstance(module, nn.Embedding):
            module.weight.data.mul_(0.1)
    return model


def halves(groups, generator, exact=True):
    """About half of the units of every group at random, one at least."""
    kept = {}
    for group in groups:
        if group.exact or not exact:
            kept[group.name] = torch.rand(group.size, generator=generator) < 0.5
            kept[group.name][torch.randint(group.size, (), generator=generator)] = True
    return kept


@pytest.mark.parametrize("name", BUILDS)
@torch.no_grad()
def test_removed_computes_what_masked_computes(name):
    model = built(name)
    inputs, generator = example(model), torch.Generator().manual_seed(2)
    groups = dependency_groups(model, inputs)
    for _ in range(4):
        kept = halves(groups, generator)
        small, same_shapes = remove(model, groups, kept), masked(model, groups, kept)
        outputs = same_shapes(inputs)
        torch.testing.assert_close(small(inputs), outputs, rtol=0, atol=1e-5)
        assert (outputs - model(inputs)).abs().max() > 1e-3  # what was removed mattered
        assert parameters(small) < parameters(model) == parameters(same_shapes)
        assert macs(small, inputs) < macs(model, inputs)


@pytest.mark.parametrize("name", ["residual", "concatenation", "depthwise", "vit", "grouped queries, gated MLP"])
@torch.no_grad()
def test_each_single_unit_is_the_one_removed(name):
    # one unit alone, so that no error in one place can hide behind many removals
    model = built(name)
    inputs = example(model)
    groups = dependency_groups(model, inputs)
    for group in (group for group in groups if group.exact):
        for unit in {0, group.size - 1}:
            kept = {group.name: torch.arange(group.size) != unit}
            torch.testing.assert_close(remove(model, groups, kept)(inputs), masked(model, groups, kept)(inputs), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", BUILDS)
def test_the_small_network_trains_and_shrinks_again(name):
    model = built(name).train()
    inputs, generator = example(model), torch.Generator().manual_seed(3)
    for _ in range(2):
        groups = dependency_groups(model, inputs)
        model = remove(model, groups, halves(groups, generator, exact=False))
        model(inputs).square().mean().backward()
        assert all(p.grad is not None and p.grad.shape == p.shape for p in model.parameters())


def test_counts_of_a_residual_network_by_hand():
    # stem 1 -> 8 on 8x8; block 0: 8 -> 8 -> 8 on 8x8; block 1: 8 -> 16 -> 16, shortcut 8 -> 16, on 4x4; fc from 32.
    model = networks.resnet8(width=8)
    inputs = torch.zeros(1, 1, 8, 8)
    groups = dependency_groups(model, inputs)
    stream = remove(model, groups, {"conv1": torch.arange(8) != 3})
    # its stem filter 9, row of conv2 72, column of conv1 72, of the next conv1 16*9 and shortcut 16; two norms of 2
    assert parameters(model) - parameters(stream) == 9 + 72 + 72 + 144 + 16 + 4
    assert macs(model, inputs) - macs(stream, inputs) == 64 * (9 + 72 + 72) + 16 * (144 + 16)
    inside = remove(model, groups, {"blocks.1.conv1": torch.arange(16) >= 2})
    # two rows of conv1 8*9, two columns of conv2 16*9, two pairs of norm
    assert parameters(model) - parameters(inside) == 2 * (72 + 144 + 2)
    assert macs(model, inputs) - macs(inside, inputs) == 2 * 16 * (72 + 144)


def test_counts_of_grouped_query_attention_by_hand():
    model = networks.llama_small(vocabulary=64, width=32, layers=1, heads=4, key_value_heads=2)
    inputs = torch.zeros(1, 5, dtype=torch.int64)
    groups = dependency_groups(model, inputs)
    small = remove(model, groups, {"blocks.0.attention.query": torch.tensor([False, True])})
    # per key-value head: 8 rows of key and of value, 16 of query, 16 columns of output, each of 32
    assert parameters(model) - parameters(small) == (8 + 8 + 16 + 16) * 32
    # over 5 tokens, and two query heads with two products of 5 x 5 x 8
    assert macs(model, inputs) - macs(small, inputs) == 5 * (8 + 8 + 16 + 16) * 32 + 2 * 2 * 5 * 5 * 8
    attention = small.blocks[0].attention
    assert (attention.heads, attention.key_value_heads, attention.head_dim) == (2, 1, 8)


def test_what_is_left_is_the_right_part_by_hand():
    model = nn.Sequential(nn.Conv2d(1, 3, 1), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(6, 1)).eval()
    with torch.no_grad():
        model[0].weight[:] = torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1, 1)
        model[0].bias[:] = torch.tensor([4.0, 5.0, 6.0])
        model[1].running_mean[:] = torch.tensor([7.0, 8.0, 9.0])
        model[3].weight[:] = torch.arange(6.0)
    groups = dependency_groups(model, torch.zeros(1, 1, 1, 2))
    small = remove(model, groups, {"0": torch.tensor([True, False, True])})
    assert small[0].weight.flatten().tolist() == [1, 3]
    assert small[0].bias.tolist() == [4, 6]
    assert small[1].running_mean.tolist() == [7, 9]
    assert small[3].weight.tolist() == [[0, 1, 4, 5]]
    assert (small[0].out_channels, small[1].num_features, small[3].in_features) == (2, 2, 4)
    zeroed = masked(model, groups, {"0": torch.tensor([True, False, True])})
    assert zeroed[0].weight.flatten().tolist() == [1, 0, 3]
    assert zeroed[1].weight.tolist() == [1, 0, 1]
    assert zeroed[1].running_mean.tolist() == [7, 8, 9]
    assert zeroed[3].weight.tolist() == [[0, 1, 2, 3, 4, 5]]


def test_modules_state_their_new_sizes():
    model = built("depthwise with a multiplier, transposed")
    inputs = example(model)
    groups = dependency_groups(model, inputs)
    small = remove(model, groups, {groups[0].name: torch.arange(6) < 2, groups[1].name: torch.arange(5) < 3})
    assert (small[0].out_channels, small[1].in_channels, small[1].out_channels, small[1].groups) == (2, 2, 4, 2)
    assert (small[4].in_channels, small[4].out_channels, small[5].in_channels) == (4, 3, 3)
    normed = nn.Sequential(nn.Conv2d(1, 6, 1), nn.GroupNorm(2, 6), nn.Conv2d(6, 1, 1))
    small = remove(normed, dependency_groups(normed, inputs), {"0": torch.tensor([True, False, True])})
    assert (small[1].num_channels, small[1].num_groups, len(small[1].weight)) == (4, 2, 4)
    assert small(inputs).shape == (3, 1, 8, 8)
    width = networks.vit_small()
    groups = dependency_groups(width, inputs)
    small = remove(width, groups, {"patches": torch.arange(32) < 20})
    assert small.norm.normalized_shape == (20,)
    assert (small.positions.shape[-1], small.class_token.shape[-1], small.head.in_features) == (20, 20, 20)
    assert small(inputs).shape == (3, 10)


def test_saved_with_its_shapes_and_loaded_again(tmp_path):
    model = built("residual")
    inputs = example(model)
    groups = dependency_groups(model, inputs)
    small = remove(model, groups, halves(groups, torch.Generator().manual_seed(4)))
    again = pickle.loads(pickle.dumps(small))
    assert torch.equal(again(inputs), small(inputs))
    torch.save(small, tmp_path / "small.pt")
    assert torch.equal(torch.load(tmp_path / "small.pt", weights_only=False)(inputs), small(inputs))
    files = [io.BytesIO(), io.BytesIO()]
    for network, file in zip((model, small), files, strict=True):
        torch.save(network.state_dict(), file)
    assert len(files[1].getvalue()) < 0.6 * len(files[0].getvalue())  # no view into the old storage


def test_the_given_model_is_unchanged():
    model = built("concatenation")
    before = copy.deepcopy(model.state_dict())
    groups = dependency_groups(model, example(model))
    kept = halves(groups, torch.Generator().manual_seed(5))
    remove(model, groups, kept)
    masked(model, groups, kept)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_ties_frozen_flags_and_dtype_are_kept():
    model = networks.llama_small(tied=True).double()
    model.blocks[0].mlp.up.weight.requires_grad_(False)
    inputs = torch.zeros(1, 4, dtype=torch.int64)
    model(inputs).sum().backward()
    groups = dependency_groups(model, inputs)
    small = remove(model, groups, {group.name: torch.arange(group.size) < group.size / 2 for group in groups})
    assert small.head.weight is small.embedding.weight
    assert small.head.weight.shape == (64, 16)
    assert (small.embedding.embedding_dim, small.head.in_features) == (16, 16)
    assert [name for name, p in small.named_parameters() if not p.requires_grad] == ["blocks.0.mlp.up.weight"]
    assert {p.dtype for p in small.parameters()} == {torch.float64}
    assert all(p.grad is None for p in small.parameters())
    assert small(inputs).shape == (1, 4, 64)


@torch.no_grad()
def test_keeping_everything_changes_nothing():
    model = built("depthwise")
    inputs = example(model)
    groups = dependency_groups(model, inputs)
    for kept in ({}, {group.name: torch.ones(group.size, dtype=torch.bool) for group in groups}):
        for change in (remove, masked):
            assert torch.equal(change(model, groups, kept)(inputs), model(inputs))


@pytest.mark.parametrize("change", [remove, masked])
@pytest.mark.parametrize(
    ("kept", "message"),
    [
        ({"2": torch.ones(2, dtype=torch.bool)}, "no group '2'; there are 0"),
        ({"0": torch.ones(4, dtype=torch.bool)}, r"0 needs a bool tensor of shape \(3,\), not torch.bool \(4,\)"),
        ({"0": torch.ones(3)}, r"0 needs a bool tensor of shape \(3,\), not torch.float32 \(3,\)"),
        ({"0": [True, True, False]}, "0 needs a bool tensor .* not list"),
        ({"0": torch.zeros(3, dtype=torch.bool)}, "nothing of 0 would stay"),
    ],
)
def test_refuses_what_is_no_choice_of_units(change, kept, message):
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    with pytest.raises(ValueError, match=message):
        change(model, dependency_groups(model, torch.zeros(1, 4)), kept)


def test_refuses_the_groups_of_another_model():
    groups = dependency_groups(nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)), torch.zeros(1, 4))
    with pytest.raises(ValueError, match=r"groups: 0 belongs to another model, 0.weight does not fit"):
        remove(nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 2)), groups, {"0": torch.tensor([True, False, True])})
