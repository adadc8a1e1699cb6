"""Random connections, growth, and the sharing out of whole numbers: by hand, and against what they promise."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from reference_impls.core.connections import Connections, drop_lowest, grow_highest, grow_random, random_connections, share_out
from reference_impls.core.training import fit


def test_every_weight_gets_its_density():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 8), nn.Linear(8, 5))
    masks = random_connections(model, {"0.weight": 0.3, "1.weight": 1.0}, torch.Generator().manual_seed(0))
    assert {name: int(mask.sum()) for name, mask in masks.items()} == {"0.weight": 24, "1.weight": 40}
    again = random_connections(model, {"0.weight": 0.3, "1.weight": 1.0}, torch.Generator().manual_seed(0))
    other = random_connections(model, {"0.weight": 0.3, "1.weight": 1.0}, torch.Generator().manual_seed(1))
    assert torch.equal(masks["0.weight"], again["0.weight"])
    assert not torch.equal(masks["0.weight"], other["0.weight"])


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, lambda p: torch.optim.SGD(p, 0.1, momentum=0.9)])
def test_absent_connections_stay_zero_and_gather_no_state(optimizer):
    torch.manual_seed(0)
    model = nn.Linear(6, 4)
    sparse = Connections({"weight": torch.rand(4, 6) < 0.5})
    fit(model, [(torch.randn(8, 6), torch.randint(4, (8,)))] * 3, 1, [sparse], optimizer=optimizer)
    gone = ~sparse.masks["weight"]
    assert not model.weight[gone].any() and model.weight[~gone].all()
    for state in sparse.optimizer.state[model.weight].values():
        if state is not None and state.shape == gone.shape:
            assert not state[gone].any() and state[~gone].all()
    assert sparse.step == 3


def test_the_lowest_present_go_and_the_highest_absent_come():
    mask = torch.tensor([[True, True, False], [False, True, True]])
    score = torch.tensor([[3.0, 1.0, -9.0], [9.0, 1.0, 2.0]])
    # of the present 3, 1, 1, 2 the two 1 go first, of equal ones the first; the absent -9 and 9 count for nothing
    assert drop_lowest(mask, score, 1).tolist() == [[True, False, False], [False, True, True]]
    assert drop_lowest(mask, score, 3).tolist() == [[True, False, False], [False, False, False]]
    assert grow_highest(mask, score, 1).tolist() == [[True, True, False], [True, True, True]]
    even = torch.zeros(2, 3)
    assert grow_highest(mask, even, 1).tolist() == [[True, True, True], [False, True, True]]
    assert drop_lowest(mask, score, 0).equal(mask) and grow_highest(mask, score, 0).equal(mask)


def test_growth_takes_absent_places_only_and_avoided_ones_last():
    mask = torch.tensor([[True, False, False], [False, False, True]])
    avoided = torch.tensor([[False, True, False], [True, False, False]])
    for seed in range(20):
        grown = grow_random(mask, 2, torch.Generator().manual_seed(seed), avoided)
        assert grown.tolist() == [[True, False, True], [False, True, True]]
        assert int(grow_random(mask, 3, torch.Generator().manual_seed(seed), avoided).sum()) == 5
    assert grow_random(mask, 4).all() and not mask.all()


def test_growth_is_uniform():
    generator, mask = torch.Generator().manual_seed(0), torch.tensor([True, False, False, False, False])
    counts = sum(grow_random(mask, 2, generator).int() for _ in range(2000))
    assert counts[0] == 2000
    assert (counts[1:] - 1000).abs().max() < 110  # five deviations of a draw with p = 1/2


def test_share_out_by_hand():
    # 10 by 1:1:2 is 2.5, 2.5, 5: the half goes to the first
    assert share_out(10, {"a": 1, "b": 1, "c": 2}, {"a": 9, "b": 9, "c": 9}) == {"a": 3, "b": 2, "c": 5}
    # c takes only 3; the other 7 by 1:1 is 3.5 each
    assert share_out(10, {"a": 1, "b": 1, "c": 2}, {"a": 9, "b": 9, "c": 3}) == {"a": 4, "b": 3, "c": 3}
    assert share_out(4, {"a": 0, "b": 0}, {"a": 9, "b": 9}) == {"a": 2, "b": 2}


@given(st.lists(st.tuples(st.floats(0, 5), st.integers(0, 40)), min_size=1, max_size=6), st.floats(0, 1))
def test_share_out_is_whole_exact_and_within_the_room(parts, fraction):
    weights = {str(place): weight for place, (weight, _) in enumerate(parts)}
    room = {str(place): space for place, (_, space) in enumerate(parts)}
    total = int(fraction * sum(room.values()))
    shares = share_out(total, weights, room)
    assert sum(shares.values()) == total
    assert all(0 <= shares[name] <= room[name] for name in room)
    for one, other in itertools.permutations(room, 2):  # who has less weight never gets more, but where the other is full
        if weights[one] < weights[other] and shares[other] < room[other]:
            assert shares[one] <= shares[other] + 1
