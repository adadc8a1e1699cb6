"""Continuous Sparsification (savarese2020winning): by hand, against the authors' procedure written as one loop, and its claim."""

import copy
import math

import pytest
import torch
from torch import nn

from reference_impls.after_training import continuous_sparsification, lottery_ticket
from reference_impls.core.amounts import Strength
from reference_impls.core.masks import prunable_weights, sparsity_of
from reference_impls.core.training import HoldMasks, accuracy, cross_entropy, fit
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import lenet_300_100


def layer(*weights):
    made = nn.Linear(len(weights), 1, bias=False)
    made.weight.data = torch.tensor([weights])
    return made


def test_the_mask_and_the_temperature_by_hand():
    # s_0 = 0: sigmoid(0) = 1/2, so masks are doubled. 2 sigmoid(2 * 0.5) = 1.462117; 2 sigmoid(2 * -1) = 0.238406
    score = torch.tensor([0.5, -1.0, 0.0])
    torch.testing.assert_close(continuous_sparsification.scaled_mask(score, 2.0, 0.0), torch.tensor([1.462117, 0.238406, 1.0]))
    # s_0 = ln 3: sigmoid(s_0) = 3/4, so the ticket's weights are multiplied by 4/3; s = 0 is not in the ticket
    torch.testing.assert_close(continuous_sparsification.scaled_mask(score, math.inf, math.log(3)), torch.tensor([4 / 3, 0, 0]))
    # from 1 to 16 in five epochs: 16^(t/4); it stays there, and a single epoch has 1
    assert [continuous_sparsification.temperature_of(epoch, 5, 16.0) for epoch in range(6)] == [1, 2, 4, 8, 16, 16]
    assert continuous_sparsification.temperature_of(0, 1, 16.0) == 1
    assert continuous_sparsification.temperature_of(1, 2, 16.0) == 16


def test_a_step_by_hand():
    # weights 1, -2; s = 0.5, -1; beta = 2; s_0 = 0; lambda = 0.1; gradients of the shown weights 1, 1; eta 1.
    # masks 1.462117, 0.238406; their slopes 2 beta m'(beta s) = 4 * 0.196612 = 0.786448 and 4 * 0.104994 = 0.419974
    # w: 1 - 1.462117 = -0.462117; -2 - 0.238406 = -2.238406
    # s: 0.5 - (1 * 1 + 0.1) 0.786448 = -0.365093; -1 - (1 * -2 + 0.1) 0.419974 = -0.202049
    model = layer(1.0, -2.0)
    soft = continuous_sparsification.SoftMasks(0.1, 0.0, lambda epoch: 2.0, scores={"weight": torch.tensor([[0.5, -1.0]])})
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, weight_decay=0.0)
    soft.start(model, optimizer)
    torch.testing.assert_close(model.weight.data, torch.tensor([[1.462117, -2 * 0.238406]]))
    optimizer.zero_grad()
    (model.weight.sum() + soft.penalty(model)).backward()
    soft.after_backward(model, optimizer)
    optimizer.step()
    soft.after_step(model, optimizer)
    torch.testing.assert_close(soft.dense["weight"], torch.tensor([[-0.462117, -2.238406]]))
    torch.testing.assert_close(soft.scores["weight"].data, torch.tensor([[-0.365093, -0.202049]]))
    mask = 2 / (1 + torch.exp(-2 * torch.tensor([[-0.365093, -0.202049]])))
    torch.testing.assert_close(model.weight.data, torch.tensor([[-0.462117, -2.238406]]) * mask)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(36, 4))


def data():
    torch.manual_seed(1)
    return [(torch.randn(16, 1, 5, 5), torch.randint(4, (16,))) for _ in range(4)]


def as_the_authors_do(strength, initial, final, epochs, rounds, rewind):
    """Their loop: rounds of soft masks, then the rewound ticket; every run with its own optimizer."""
    model, names = network(), ("0.weight", "4.weight")
    scores = {name: torch.full_like(model.get_parameter(name), initial) for name in names}
    stored, beta = None, 1.0
    for round_ in range(rounds + 1):
        ticket = round_ == rounds
        if ticket:
            model.load_state_dict(stored)
        elif round_:
            scores = {name: torch.minimum(beta * score, torch.tensor(initial)) for name, score in scores.items()}
        scores = {name: score.clone().requires_grad_() for name, score in scores.items()}
        optimizer = torch.optim.SGD(
            [{"params": model.parameters(), "weight_decay": 0.01}, {"params": scores.values()}], lr=0.5, momentum=0.9
        )
        beta = 1.0
        for epoch in range(epochs):
            if epoch:
                beta *= final ** (1 / (epochs - 1))
            if round_ == 0 and epoch == rewind:
                stored = copy.deepcopy(model.state_dict())
            for inputs, targets in data():
                optimizer.zero_grad()
                sigma = 1 / (1 + math.exp(-initial))
                masks = {name: ((score > 0).float() if ticket else torch.sigmoid(beta * score)) / sigma for name, score in scores.items()}
                seen = {name: model.get_parameter(name) * mask for name, mask in masks.items()}
                loss = cross_entropy(torch.func.functional_call(model, seen, inputs), targets)
                (loss + strength * sum(mask.sum() for mask in masks.values())).backward()
                optimizer.step()
        scores = {name: score.detach() for name, score in scores.items()}
    with torch.no_grad():
        for name in names:
            model.get_parameter(name).mul_((scores[name] > 0) / sigma)
    return model.eval()


@pytest.mark.parametrize("given", [{"rounds": 1, "rewind": 0}, {"rounds": 2, "rewind": 1}, {"rounds": 3, "rewind": 2}])
def test_same_ticket_as_the_authors_procedure(given):
    options = {"initial": 0.05, "final": 20.0, "epochs": 3} | given
    optimizer = lambda parameters: torch.optim.SGD(parameters, lr=0.5, momentum=0.9, weight_decay=0.01)
    train = lambda model, callbacks: fit(model, data(), 3, callbacks, optimizer=optimizer)
    theirs = as_the_authors_do(0.0001, **options)
    ours = continuous_sparsification.prune(network(), [], Strength(0.0001), train=train, **options)
    for name, tensor in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], tensor, rtol=1e-4, atol=1e-5, msg=name)
    kept = torch.cat([weight.flatten() != 0 for weight in prunable_weights(ours).values()]).float().mean()
    assert 0.2 < kept < 0.95


def test_the_network_starts_as_it_was():
    model, soft = network(), continuous_sparsification.SoftMasks(0.0, -0.3, lambda epoch: 1.0)
    before = copy.deepcopy(model.state_dict())
    soft.start(model, torch.optim.SGD(model.parameters(), lr=1.0))
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, before[name])


def test_scores_do_not_decay_with_the_weights():
    model, soft = layer(1.0, 2.0), continuous_sparsification.SoftMasks(0.0, -0.3, lambda epoch: 1.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, weight_decay=0.5)
    soft.start(model, optimizer)
    soft.after_backward(model, optimizer)
    optimizer.step()
    soft.after_step(model, optimizer)
    torch.testing.assert_close(soft.scores["weight"].data, torch.full((1, 2), -0.3))
    torch.testing.assert_close(soft.dense["weight"], torch.tensor([[0.5, 1.0]]))


@pytest.mark.parametrize(
    "given", [{"epochs": 0}, {"rounds": 0}, {"rewind": -1}, {"rewind": 4, "epochs": 3}, {"final": 0.5}, {"final": math.inf}]
)
def test_refuses_what_is_out_of_range(given):
    with pytest.raises(ValueError, match=next(iter(given))):
        continuous_sparsification.prune(network(), [], Strength(0.1), train=lambda model, callbacks: model, **given)


def test_takes_what_is_just_in_range_and_refuses_a_network_before_training_it():
    train = lambda model, callbacks: fit(model, data(), 1, callbacks)
    pruned = continuous_sparsification.prune(network(), [], Strength(0.0), train=train, epochs=1, rounds=1, rewind=1, final=1.0)
    assert isinstance(pruned, nn.Module)
    broken = network()
    broken[0].weight.data[0] = torch.nan
    trained = []
    with pytest.raises(ValueError, match="NaN"):
        continuous_sparsification.prune(broken, [], Strength(0.1), train=lambda model, callbacks: trained.append(model))
    assert not trained


def test_refuses_to_rewind_to_what_was_never_reached():
    train = lambda model, callbacks: fit(model, data(), 1, callbacks)
    with pytest.raises(ValueError, match="rewind: train made fewer epochs than 2"):
        continuous_sparsification.prune(network(), [], Strength(0.1), train=train, epochs=3, rewind=2)
    with pytest.raises(ValueError, match="train"):
        continuous_sparsification.prune(network(), [], Strength(0.1))


@pytest.mark.claim
def test_one_search_finds_a_better_ticket_than_magnitude_does_in_as_many_runs():
    """About half a per cent of the weights is left. With more runs magnitude catches up: in five rounds it found better tickets."""
    train_on, test = digits()
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        images, model = batches(*train_on, 64, generator), lenet_300_100(generator=generator)
        train = lambda network, callbacks, images=images: fit(network, images, 10, callbacks)
        ticket = continuous_sparsification.prune(model, [], Strength(1e-4), train=train, epochs=10, initial=-0.3)
        masks = {name: weight != 0 for name, weight in prunable_weights(ticket).items()}
        # other weights, of the same number in each layer, that start from the same scaled values
        shuffled = {n: m.flatten()[torch.randperm(m.numel(), generator=generator)].view_as(m) for n, m in masks.items()}
        scaled = copy.deepcopy(model)
        for weight in prunable_weights(scaled).values():
            weight.data *= 1 + math.exp(0.3)
        others = accuracy(train(scaled, [HoldMasks(shuffled)]), [test])
        magnitude = accuracy(lottery_ticket.prune(model, [], sparsity_of(masks), train=train, rounds=1), [test])
        assert sparsity_of(masks) > 0.99
        assert accuracy(ticket, [test]) > 0.15 + max(others, magnitude)
