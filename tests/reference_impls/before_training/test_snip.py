"""SNIP (lee2019snip): by hand, against real gates, against the numbers of an independent implementation, and its claim."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call

from reference_impls.before_training import snip
from reference_impls.core.masks import keep_highest
from reference_impls.core.training import HoldMasks, accuracy, fit
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import lenet_300_100

ORACLE = Path(__file__).parents[2] / "oracle"


def half_square(output, target):
    return ((output - target) ** 2).sum() / 2


def test_by_hand():
    # y = 1*3 + 2*(-1) = 1, so dL/dw = y*x = (3, -1) and w*dL/dw = (3, -2): sensitivity (3, 2) / 5
    model = nn.Linear(2, 1, bias=False)
    model.weight.data = torch.tensor([[1.0, 2.0]])
    data = [(torch.tensor([[3.0, -1.0]]), torch.zeros(1, 1))]
    scores = snip.connection_sensitivity(model, data, half_square)
    torch.testing.assert_close(scores["weight"], torch.tensor([[0.6, 0.4]]))
    assert snip.masks(model, data, 0.5, loss=half_square)["weight"].tolist() == [[True, False]]


def test_gradients_are_summed_before_the_absolute_value():
    # dL/dw = (3, -1) on the first batch and (-3, -1) on the second: together (0, -2), so only the second weight matters;
    # absolute values taken per batch would give (0.6, 0.4)
    model = nn.Linear(2, 1, bias=False)
    model.weight.data = torch.tensor([[1.0, 2.0]])
    data = [(torch.tensor([[3.0, -1.0]]), torch.tensor([[0.0]])), (torch.tensor([[3.0, 1.0]]), torch.tensor([[6.0]]))]
    scores = snip.connection_sensitivity(model, data, half_square)
    torch.testing.assert_close(scores["weight"], torch.tensor([[0.0, 1.0]]))


def test_equals_the_derivative_of_real_gates():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 4 * 4, 5))
    inputs, targets = torch.randn(7, 1, 6, 6), torch.randint(5, (7,))
    weights = {name: p.detach() for name, p in model.named_parameters() if p.dim() > 1}
    gates = {name: torch.ones_like(w, requires_grad=True) for name, w in weights.items()}
    loss = nn.functional.cross_entropy(functional_call(model, {n: w * gates[n] for n, w in weights.items()}, inputs), targets)
    pull = dict(zip(gates, torch.autograd.grad(loss, list(gates.values())), strict=True))
    norm = sum(p.abs().sum() for p in pull.values())
    for name, score in snip.connection_sensitivity(model, [(inputs, targets)]).items():
        torch.testing.assert_close(score, pull[name].abs() / norm)


def test_same_scores_and_mask_as_the_synaptic_flow_repository():
    # its counting rule: prune score <= kthvalue(int(0.9 * 2040)) = 1836 weights; ours: round(0.9 * 2040) = 1836
    case = {k: torch.from_numpy(v) for k, v in np.load(ORACLE / "synflow_snip_c1_mlp.npz").items()}
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 32), nn.ReLU(), nn.Linear(32, 24), nn.ReLU(), nn.Linear(24, 5))
    model.load_state_dict({k.removeprefix("state."): v for k, v in case.items() if k.startswith("state.")})
    data = list(zip(case["X"].split(20), case["Y"].split(20), strict=True))
    scores, masks = snip.connection_sensitivity(model, data), snip.masks(model, data, 0.9)
    for name in masks:
        torch.testing.assert_close(scores[name], case[f"score_round1.{name}"], rtol=1e-4, atol=1e-8)
        assert torch.equal(masks[name], case[f"keep_mask.{name}"].bool())
    assert sum(int((~mask).sum()) for mask in masks.values()) == 1836


def test_batch_norm_is_scored_with_its_running_statistics_and_keeps_them():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).eval()
    inputs, targets = 5 + torch.randn(8, 3), torch.randint(2, (8,))
    weights = [model[0].weight, model[2].weight]
    gradients = torch.autograd.grad(nn.functional.cross_entropy(model(inputs), targets), weights)
    pull = [(weight * gradient).abs().detach() for weight, gradient in zip(weights, gradients, strict=True)]
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for score, expected in zip(snip.connection_sensitivity(model.train(), [(inputs, targets)]).values(), pull, strict=True):
        torch.testing.assert_close(score, expected / sum(part.sum() for part in pull))
    assert model.training
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_a_shared_weight_counts_once_and_a_frozen_one_not_at_all():
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False), nn.Linear(3, 2, bias=False))
    model[1].weight = model[0].weight
    model[2].weight.requires_grad_(False)
    scores = snip.connection_sensitivity(model, [(torch.eye(3), torch.tensor([0, 1, 0]))])
    assert {name: score.numel() for name, score in scores.items()} == {"0.weight": 9}


def test_refuses_what_no_connection_can_feel():
    with pytest.raises(ValueError, match="batches"):
        snip.connection_sensitivity(nn.Linear(2, 1), [], half_square)


@pytest.mark.claim
def test_one_cut_before_training_keeps_a_network_trainable_where_chance_and_the_reverse_order_do_not():
    train, test = digits()
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        data = batches(*train, 64, generator)
        model = lenet_300_100(generator=generator)
        scores = snip.connection_sensitivity(model, data)
        orders = {
            "snip": scores,
            "random": {name: torch.rand(score.shape, generator=generator) for name, score in scores.items()},
            "reverse": {name: -score for name, score in scores.items()},
        }
        reached = {}
        for name, order in orders.items():
            network = lenet_300_100()
            network.load_state_dict(model.state_dict())
            reached[name] = accuracy(fit(network, data, 5, [HoldMasks(keep_highest(order, 0.95))]), [test])
        assert reached["snip"] > 0.85
        assert reached["snip"] > 0.3 + max(reached["random"], reached["reverse"])
