"""What structured methods share: costs against the network cut for real, sums per unit by hand, what is frozen."""

import pytest
import torch
from torch import nn

from reference_impls.core import counting, surgery
from reference_impls.core.groups import Member
from reference_impls.core.structures import Costs, one_example, per_unit, removable_groups, slice_norms, weights_among
from reference_impls.zoo.networks import convnet, densenet_small, mobilenet_small, resnet8

EXAMPLE = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_sums_per_unit_by_hand():
    # indices 0 and 2 go with unit 1, index 3 with unit 0, index 1 with none: unit 0 has 8, unit 1 has 1 + 4
    member = Member("weight", 1, torch.tensor([1, -1, 1, 0]))
    assert per_unit(member, torch.tensor([1.0, 2.0, 4.0, 8.0]), 2).tolist() == [8.0, 5.0]
    assert per_unit(member, torch.tensor([[1.0, 2.0, 4.0, 8.0], [0.0, 9.0, 1.0, 1.0]]), 2).tolist() == [[8.0, 5.0], [1.0, 1.0]]


def test_norms_of_slices_by_hand():
    weight = torch.tensor([[1.0, -2.0], [3.0, -4.0], [0.0, 5.0]])
    assert slice_norms(weight, 0).tolist() == [3.0, 7.0, 5.0]
    assert slice_norms(weight, 1).tolist() == [4.0, 11.0]


def test_frozen_groups_are_left_out_and_a_frozen_reader_freezes_what_it_reads():
    model = resnet8(generator=seeded())
    model.blocks[1].conv2.weight.requires_grad_(False)
    names = {group.name for group in removable_groups(model, EXAMPLE)}
    assert names == {"conv1", "blocks.0.conv1", "blocks.2.conv1", "blocks.2.conv2"}
    with pytest.raises(ValueError, match="nothing to prune"):
        removable_groups(nn.Linear(2, 2), torch.ones(1, 2))
    model.fc.weight.data[0, 0] = torch.nan
    with pytest.raises(ValueError, match="NaN"):
        removable_groups(model, EXAMPLE)


def test_one_example_is_the_first():
    assert torch.equal(one_example([(torch.arange(6.0).view(3, 2), None)]), torch.tensor([[0.0, 1.0]]))
    with pytest.raises(ValueError, match="batches"):
        one_example([])


def test_weights_among_members_are_those_of_layers_and_carry_no_gradient():
    model = resnet8(generator=seeded())
    group = removable_groups(model, EXAMPLE)[0]
    found = weights_among(model, group.producers)
    assert [member.tensor for member, _ in found] == ["conv1.weight", "blocks.0.conv2.weight"]  # not the norms' scales
    assert not any(weight.requires_grad for _, weight in found)


@pytest.mark.parametrize("build", [resnet8, convnet, mobilenet_small, densenet_small])
def test_costs_are_those_of_the_network_cut_for_real(build):
    model = build(generator=seeded())
    groups = removable_groups(model, EXAMPLE)
    costs = Costs(model, groups, EXAMPLE)
    assert costs({}) == counting.macs(model, EXAMPLE)
    generator = seeded(1)
    for _ in range(4):
        numbers = {group.name: int(torch.randint(1, group.size + 1, (), generator=generator)) for group in groups}
        kept = {group.name: torch.arange(group.size) < numbers[group.name] for group in groups}
        assert costs(numbers) == counting.macs(surgery.remove(model, groups, kept), EXAMPLE)
    assert model.training
