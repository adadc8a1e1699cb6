"""GraSP (wang2020picking): by hand, against the whole Hessian, against the authors' code, and its claim."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call

from reference_impls.before_training import grasp, snip
from reference_impls.core.masks import keep_highest, masked
from reference_impls.core.training import HoldMasks, accuracy, cross_entropy, fit
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import lenet_300_100

ORACLE = Path(__file__).parents[2] / "oracle"


def half_square(output, target):
    return ((output - target) ** 2).sum() / 2


def linear(*weights):
    model = nn.Linear(len(weights), 1, bias=False)
    model.weight.data = torch.tensor([weights])
    return model


def test_by_hand():
    # x = (3, -1), y = w x = 1: g = y x = (3, -1), H = x x^T = [[9, -3], [-3, 1]], Hg = (27 + 3, -9 - 1) = (30, -10)
    # w * Hg = (1*30, 2*-10): without the second weight the gradient flow would rise, so it goes
    data = [(torch.tensor([[3.0, -1.0]]), torch.zeros(1, 1))]
    scores = grasp.gradient_flow_share(linear(1.0, 2.0), data, loss=half_square, temperature=1.0)
    torch.testing.assert_close(scores["weight"], torch.tensor([[30.0, -20.0]]))
    assert grasp.masks(linear(1.0, 2.0), data, 0.5, loss=half_square, temperature=1.0)["weight"].tolist() == [[True, False]]


def test_temperature_divides_the_outputs_by_hand():
    # y = w x / 2 = 1/2: g = y x / 2 = (3/4, -1/4), H = x x^T / 4, Hg = (9*3/4 + 3/4, -9/4 - 1/4) / 4 = (15/8, -5/8)
    data = [(torch.tensor([[3.0, -1.0]]), torch.zeros(1, 1))]
    scores = grasp.gradient_flow_share(linear(1.0, 2.0), data, loss=half_square, temperature=2.0)
    torch.testing.assert_close(scores["weight"], torch.tensor([[15 / 8, -10 / 8]]))


def test_every_batch_s_hessian_meets_the_gradient_of_all_batches_by_hand():
    # x = (3, -1) and (0, 1): g = 1*(3, -1) + 2*(0, 1) = (3, 1); H = [[9, -3], [-3, 1]] + [[0, 0], [0, 1]]
    # Hg = (27 - 3, -9 + 2) = (24, -7); batch by batch it would be (30, -10) + (0, 2) = (30, -8)
    data = [(torch.tensor([[3.0, -1.0]]), torch.zeros(1, 1)), (torch.tensor([[0.0, 1.0]]), torch.zeros(1, 1))]
    scores = grasp.gradient_flow_share(linear(1.0, 2.0), data, loss=half_square, temperature=1.0)
    torch.testing.assert_close(scores["weight"], torch.tensor([[24.0, -14.0]]))


def test_equals_the_product_with_the_whole_hessian():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    inputs, targets = torch.randn(10, 4, dtype=torch.float64), torch.randint(3, (10,))
    shapes = {"0.weight": (5, 4), "2.weight": (3, 5)}
    theta = torch.cat([model.get_parameter(name).detach().flatten() for name in shapes])

    def loss(flat):
        parts = flat.split([20, 15])
        weights = {name: part.view(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}
        outputs = functional_call(model, weights, inputs) / 200
        return cross_entropy(outputs[:6], targets[:6]) + cross_entropy(outputs[6:], targets[6:])

    hessian, gradient = torch.autograd.functional.hessian(loss, theta), torch.autograd.functional.jacobian(loss, theta)
    scores = grasp.gradient_flow_share(model, [(inputs[:6], targets[:6]), (inputs[6:], targets[6:])])
    torch.testing.assert_close(torch.cat([score.flatten() for score in scores.values()]), theta * (hessian @ gradient))


def test_foretells_how_a_small_shrinking_changes_the_gradient_flow():
    # what the score stands for: (1 - ε) θ_q instead of θ_q changes g^T g by -2 ε θ_q (Hg)_q
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    data = [(torch.randn(10, 4, dtype=torch.float64), torch.randint(3, (10,)))]
    scores = grasp.gradient_flow_share(model, data, temperature=1.0)

    def flow(network):
        weights = [network[0].weight, network[2].weight]
        return sum((g**2).sum() for g in torch.autograd.grad(cross_entropy(network(data[0][0]), data[0][1]), weights))

    for place in [(0, 0), (2, 3), (4, 1)]:
        shrunk = copy.deepcopy(model)
        shrunk[0].weight.data[place] *= 1 - 1e-6
        torch.testing.assert_close((flow(model) - flow(shrunk)) / 2e-6, scores["0.weight"][place], rtol=1e-3, atol=1e-6)


def test_same_mask_as_the_authors_code():
    # its counting rule: of 2040 scores the int(0.9 * 2040) = 1836 highest are to go, but the last of them stays (<= threshold):
    # 1835 go, 205 stay; ours prunes round(amount * 2040)
    case = {k: torch.from_numpy(v) for k, v in np.load(ORACLE / "grasp_mlp_90_T200.npz").items()}
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 32), nn.ReLU(), nn.Linear(32, 24), nn.ReLU(), nn.Linear(24, 5)).double()
    model.load_state_dict({k.removeprefix("state."): v for k, v in case.items() if k.startswith("state.")})
    masks = grasp.masks(model, list(zip(case["X"].split(15), case["Y"].split(15), strict=True)), 1835 / 2040)
    for layer in (1, 3, 5):
        assert torch.equal(masks[f"{layer}.weight"], case[f"keep_mask.{layer}"].bool())
    assert sum(int(mask.sum()) for mask in masks.values()) == 205


def test_batch_norm_uses_the_batch_and_keeps_its_statistics():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).eval()
    data = [(5 + torch.randn(8, 3), torch.randint(2, (8,)))]
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    scores = grasp.gradient_flow_share(model, data)
    # a shift of all inputs is what batch statistics take away: only then are the scores the same, up to rounding
    shifted = grasp.gradient_flow_share(model, [(data[0][0] + 1, data[0][1])])
    torch.testing.assert_close(scores["2.weight"], shifted["2.weight"], rtol=1e-3, atol=1e-9)
    assert not model.training
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("temperature", [0.0, -200.0, float("nan")])
def test_refuses_a_temperature_that_is_none(temperature):
    with pytest.raises(ValueError, match="temperature"):
        grasp.masks(nn.Linear(2, 2), [(torch.ones(1, 2), torch.tensor([0]))], 0.5, temperature=temperature)


def test_refuses_to_score_without_data():
    with pytest.raises(ValueError, match="batches"):
        grasp.masks(nn.Linear(2, 2), [], 0.5)


def gradient_flow(model, masks, data):
    """g^T g of the pruned network, over the weights it has left."""
    pruned = masked(model, masks)
    weights = {name: weight for name, weight in pruned.named_parameters() if name in masks}
    loss = sum(cross_entropy(pruned(inputs), targets) for inputs, targets in data)
    gradients = torch.autograd.grad(loss, list(weights.values()))
    return sum(float(((gradient * masks[name]) ** 2).sum()) for name, gradient in zip(weights, gradients, strict=True))


@pytest.mark.claim
def test_the_gradient_survives_pruning_better_than_by_snip_by_the_absolute_score_or_by_the_opposite_sign():
    train, test = digits()
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        data = batches(*train, 64, generator)
        model = lenet_300_100(generator=generator)
        scores = grasp.gradient_flow_share(model, data)
        masks = {
            "grasp": grasp.masks(model, data, 0.9),
            "snip": snip.masks(model, data, 0.9),
            "absolute": keep_highest({name: score.abs() for name, score in scores.items()}, 0.9),
            "opposite": keep_highest({name: -score for name, score in scores.items()}, 0.9),
        }
        flow = {name: gradient_flow(model, mask, data) for name, mask in masks.items()}
        assert flow["grasp"] > 3 * max(flow["snip"], flow["absolute"], flow["opposite"])
        reached = {}
        for name in ("grasp", "opposite"):
            reached[name] = accuracy(fit(copy.deepcopy(model), data, 2, [HoldMasks(masks[name])]), [test])
        assert reached["grasp"] > reached["opposite"] + 0.4
