"""PackNet (mallya2018packnet): by hand, by what it promises (nothing is forgotten, to the last bit), and by its claim."""

import copy
from functools import partial

import pytest
import torch
from torch import nn

from reference_impls.after_training import packnet
from reference_impls.core.masks import prunable_weights
from reference_impls.core.training import accuracy, fit, momentum_sgd
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import convnet, mlp

IMAGES = torch.randn(12, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
TARGETS = torch.arange(12) % 10


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


slow = partial(momentum_sgd, learning_rate=0.05)


def learns(inputs, optimizer=slow):
    """A task's training function: two epochs on its own inputs."""
    return lambda model, callbacks=(): fit(model, [(inputs, TARGETS)], 2, callbacks, optimizer=optimizer)


def test_by_hand():
    # task 1 owns all of (0.5, -0.1, 0.3, -0.8): half of it, 0.3 and -0.1, is freed; of the two that task 2 then owns, round(0.5 * 2) = 1
    layer = nn.Sequential(nn.Flatten(), nn.Linear(4, 1, bias=False))
    layer[1].weight.data = torch.tensor([[0.5, -0.1, 0.3, -0.8]])
    owners = packnet.free(layer, {"1.weight": torch.ones(1, 4, dtype=torch.long)}, 1, 0.5)
    assert owners["1.weight"].tolist() == [[1, 0, 0, 1]] and layer[1].weight.tolist() == [[0.5, 0, 0, pytest.approx(-0.8)]]
    layer[1].weight.data = torch.tensor([[0.5, 0.9, -0.01, -0.8]])
    owners = packnet.free(layer, {"1.weight": torch.tensor([[1, 2, 2, 1]])}, 2, 0.5)
    assert owners["1.weight"].tolist() == [[1, 2, 0, 1]] and layer[1].weight[0, 2] == 0
    packed = packnet.Packed(layer, owners, 2)
    assert packed.for_task(1)[1].weight.tolist() == [[0.5, 0, 0, pytest.approx(-0.8)]]
    assert torch.equal(packed.for_task(2)[1].weight, layer[1].weight)
    assert packed(torch.ones(1, 4)).item() == pytest.approx(0.5 + 0.9 - 0.8)


def test_shares_of_the_tasks():
    # of 100 weights: 60 freed, of those 36, of those round(21.6) = 22; the tasks keep 40, 24 and 14
    model = nn.Sequential(nn.Flatten(), nn.Linear(10, 10, bias=False)).double()
    task = learns(IMAGES[:, 0, :2, :5])
    packed = packnet.prune(model, [], 0.6, train=task, tasks=(task, task))
    assert torch.bincount(packed.owners["1.weight"].flatten()).tolist() == [22, 40, 24, 14]
    assert torch.equal(packed.network[1].weight == 0, packed.owners["1.weight"] == 0)


@pytest.mark.parametrize("optimizer", [slow, partial(torch.optim.AdamW, lr=0.01, weight_decay=0.1)])
def test_a_task_is_never_forgotten(optimizer):
    # whatever the optimizer remembers or decays; with batch normalization, whose statistics are those of the first task
    first, second, third = (learns(inputs, optimizer) for inputs in (IMAGES, IMAGES.flip(3), -IMAGES))
    alone = packnet.prune(convnet(generator=seeded()).double(), [], 0.5, train=first)
    both = packnet.prune(convnet(generator=seeded()).double(), [], 0.5, train=first, tasks=(second,))
    all_three = packnet.prune(convnet(generator=seeded()).double(), [], 0.5, train=first, tasks=(second, third))
    assert torch.equal(alone(IMAGES), all_three.for_task(1).eval()(IMAGES))
    assert torch.equal(both(IMAGES), all_three.for_task(2).eval()(IMAGES))
    for later in (all_three.for_task(2), all_three):
        assert not torch.allclose(alone(IMAGES), later.eval()(IMAGES))
    for name, buffer in alone.named_buffers():
        assert torch.equal(buffer, dict(all_three.named_buffers())[name])


def test_the_first_task_trains_biases_and_normalizations_and_later_ones_only_their_own_weights():
    model, states = convnet(generator=seeded()).double(), []

    def task(network, callbacks=()):
        states.append((copy.deepcopy(network.state_dict()), copy.deepcopy(callbacks[0].owners)))
        network = learns(IMAGES)(network, callbacks)
        states.append((copy.deepcopy(network.state_dict()), callbacks[0].owners))
        return network

    packnet.prune(model, [], 0.5, train=task, tasks=(task,))
    assert len(states) == 6  # retrained; then trained and retrained
    weights = prunable_weights(model)
    for number, ((before, owners), (after, _)) in enumerate(zip(states[::2], states[1::2], strict=True)):
        own = 1 if number == 0 else 2
        for name in before:
            if name in weights:
                moved = before[name] != after[name]
                assert moved.any() and not (moved & (owners[name] != own)).any(), name
            elif name.replace("bias", "weight") not in weights or "classifier" in name:  # a bias ahead of a norm has no gradient
                assert torch.equal(before[name], after[name]) == (own == 2), name


def test_the_next_task_begins_with_zeros_beside_what_is_kept():
    starts = []

    def second(network, callbacks=()):
        starts.append({name: weight.detach().clone() for name, weight in prunable_weights(network).items()})
        return learns(IMAGES.flip(2))(network, callbacks)

    packed = packnet.prune(mlp((64, 6, 10), generator=seeded()).double(), [], 0.7, train=learns(IMAGES), tasks=(second,))
    for name, weight in starts[0].items():
        owner = packed.owners[name]
        assert torch.equal(weight != 0, owner == 1)
        assert torch.equal(weight[owner == 1], packed.network.get_parameter(name).detach()[owner == 1])


@pytest.mark.parametrize("task", [0, 3])
def test_refuses_a_task_that_is_not_there(task):
    packed = packnet.prune(mlp((64, 6, 10)).double(), [], 0.7, train=learns(IMAGES), tasks=(learns(IMAGES),))
    with pytest.raises(ValueError, match="task"):
        packed.for_task(task)


@pytest.mark.claim
def test_three_tasks_fit_into_one_network_and_none_is_forgotten():
    # digits, and the same with their pixels in two other orders. The rival is trained on one after the other, all weights free
    (inputs, targets), (test_inputs, test_targets) = digits()
    packed_found, rival_found, alone_found = torch.zeros(3), torch.zeros(3), torch.zeros(3)
    for seed in range(3):
        orders = [torch.arange(64), torch.randperm(64, generator=seeded(seed)), torch.randperm(64, generator=seeded(seed + 10))]
        data = [batches(inputs.flatten(1)[:, order], targets, 64, seeded(seed)) for order in orders]
        tests = [[(test_inputs.flatten(1)[:, order], test_targets)] for order in orders]
        tasks = [lambda model, callbacks=(), own=own: fit(model, own, 5, callbacks, optimizer=slow) for own in data]
        model = tasks[0](mlp((64, 100, 10), generator=seeded(seed)))
        packed = packnet.prune(model, data[0], 0.6, train=tasks[0], tasks=tasks[1:])
        rival = copy.deepcopy(model)
        for task in tasks[1:]:
            rival = task(task(rival))
        for place, test in enumerate(tests):
            packed_found[place] += accuracy(packed.for_task(place + 1), test) / 3
            rival_found[place] += accuracy(rival, test) / 3
            alone_found[place] += accuracy(tasks[place](tasks[place](mlp((64, 100, 10), generator=seeded(seed)))), test) / 3
    assert (packed_found > alone_found - 0.05).all()
    assert packed_found[0] > rival_found[0] + 0.3
    assert packed_found.mean() > rival_found.mean() + 0.1
