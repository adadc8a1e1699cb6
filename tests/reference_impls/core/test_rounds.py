"""Removing units in rounds."""

import pytest
import torch
from torch import nn

from reference_impls.core.rounds import made_by_convolutions, remove_in_rounds
from reference_impls.core.structures import removable_groups
from reference_impls.zoo.networks import convnet, mlp

BATCHES = [(torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1]))]


def by_index(network, groups):
    return {group.name: torch.arange(group.size).float() for group in groups}


def test_counts_add_up_over_the_rounds_and_low_scores_go():
    # 10 + 5 hidden neurons: after half of what is left goes twice, round(0.5 * 15) = 8 and round(0.75 * 15) = 11 are gone
    sizes = []

    def train(network):
        sizes.append([layer.out_features for layer in network if isinstance(layer, nn.Linear)][:-1])
        return network

    remove_in_rounds(mlp((64, 10, 5, 3)), BATCHES, 0.75, by_index, rounds=2, train=train)
    # round 1: the lowest eight of 0..9 and 0..4 are 0, 0, 1, 1, 2, 2, 3, 3; then three of (6 left, 1 left), where one always stays
    assert sizes == [[6, 1], [3, 1]]


def test_one_of_each_group_stays():
    small = remove_in_rounds(mlp((64, 10, 5, 3)), BATCHES, 0.99, by_index, rounds=2, train=None)
    assert [layer.out_features for layer in small if isinstance(layer, nn.Linear)] == [1, 1, 3]


def test_filters_are_told_from_neurons():
    model = convnet()
    assert [g.name for g in made_by_convolutions(model, removable_groups(model, BATCHES[0][0]))] == [f"features.{i}" for i in (0, 3, 7, 10)]
    with pytest.raises(ValueError, match="nothing to prune"):
        made_by_convolutions(mlp(), removable_groups(mlp(), BATCHES[0][0]))
