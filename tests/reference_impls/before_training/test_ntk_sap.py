"""NTK-SAP (wang2023ntk): by hand, against the kernel's nuclear norm and a finite difference, its expectation, and its claim."""

import itertools
import math

import pytest
import torch
from torch import nn
from torch.func import functional_call, jacrev

from reference_impls.before_training import ntk_sap
from reference_impls.core.densities import random_masks
from reference_impls.core.masks import keep_highest, prunable_weights
from reference_impls.core.training import HoldMasks, accuracy, fit
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import lenet_300_100


def all_kept(model):
    return {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in prunable_weights(model).items()}


def two_weights():
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False))
    model[0].weight.data, model[1].weight.data = torch.tensor([[2.0]]), torch.tensor([[3.0]])
    return model


def test_by_hand():
    # one layer, y = m w x: (m (w + d) x - m w x)^2 = m^2 d^2 x^2, by m at 1: 2 * 0.5^2 * 3^2 = 4.5, whatever w is
    model = nn.Linear(1, 1, bias=False)
    felt = ntk_sap.change_felt(model, all_kept(model), {"weight": torch.tensor([[0.5]])}, torch.tensor([[3.0]]))
    assert felt["weight"].item() == pytest.approx(4.5)
    # two layers, w = 2, v = 3, x = 1; w changes by 1, v by 0: the outputs change by m1 m2 v = 3, its square by each gate: 2 * 9 = 18
    change = {"0.weight": torch.tensor([[1.0]]), "1.weight": torch.tensor([[0.0]])}
    felt = ntk_sap.change_felt(two_weights(), all_kept(two_weights()), change, torch.ones(1, 1))
    assert [value.item() for value in felt.values()] == [18, 18]
    # both change by 1: from 6 m1 m2 to (2 + 1) (3 + 1) m1 m2 = 12 m1 m2, the square 36 m1^2 m2^2, by each gate 72
    both = {"0.weight": torch.tensor([[1.0]]), "1.weight": torch.tensor([[1.0]])}
    assert [value.item() for value in ntk_sap.change_felt(two_weights(), all_kept(two_weights()), both, torch.ones(1, 1)).values()] == [
        72,
        72,
    ]
    # with v's gate closed nothing arrives: both derivatives are 2 * 0 * ...
    kept = {"0.weight": torch.tensor([[True]]), "1.weight": torch.tensor([[False]])}
    assert [value.item() for value in ntk_sap.change_felt(two_weights(), kept, change, torch.ones(1, 1)).values()] == [0, 0]


def nuclear_norm(model, gates, inputs):
    """Of the kernel J J^T: the sum of its diagonal; J by all weights, of the outputs for all inputs."""
    theta = {name: weight.detach() for name, weight in prunable_weights(model).items()}
    jacobian = jacrev(lambda w: functional_call(model, {name: w[name] * gates[name] for name in w}, (inputs,)))(theta)
    return sum(part.square().sum() for part in jacobian.values())


def test_changes_in_all_directions_together_feel_the_nuclear_norm_of_the_kernel():
    # sum over unit directions of ||f(θ + ε e) - f(θ)||^2 = ε^2 trace(J J^T) for small ε; so are their derivatives by the gates
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    kept, inputs, epsilon = all_kept(model), torch.randn(5, 3, dtype=torch.float64), 1e-6
    kept["0.weight"][0, 1] = kept["2.weight"][1, 3] = False
    gates = {name: mask.double().requires_grad_() for name, mask in kept.items()}
    expected = torch.autograd.grad(nuclear_norm(model, gates, inputs), list(gates.values()))
    found = {name: torch.zeros_like(gate) for name, gate in gates.items()}
    for moved, gate in gates.items():
        for index in range(gate.numel()):
            change = {name: torch.zeros_like(other) for name, other in gates.items()}
            change[moved].view(-1)[index] = epsilon
            for name, felt in ntk_sap.change_felt(model, kept, change, inputs).items():
                found[name] += felt / epsilon**2
    for value, reference in zip(found.values(), expected, strict=True):
        torch.testing.assert_close(value, reference, rtol=1e-3, atol=1e-4)


def shaped(*shapes):
    return [(torch.full(shape, torch.nan), torch.zeros(shape[0], dtype=torch.long)) for shape in shapes]  # NaN: never looked at


def test_the_expectation_of_one_layer():
    # y = sum_j m_j w_j x_j: the derivative by m_j of (sum_j m_j d_j x_j)^2 has expectation 2 ε^2 for x_j of variance 1;
    # batches of 30 and 20 examples, 40 draws: 2 ε^2 * 50 * 40
    model = nn.Linear(8, 3)
    scores = ntk_sap.spectrum_sensitivity(
        model, all_kept(model), shaped((30, 8), (20, 8)), epsilon=0.1, draws=40, generator=torch.Generator().manual_seed(0)
    )
    assert scores["weight"].mean().item() == pytest.approx(2 * 0.1**2 * 50 * 40, rel=0.15)


def test_what_is_drawn_and_that_signs_cancel_before_the_absolute_value(monkeypatch):
    calls = []

    def watched(model, kept, change, inputs):
        weight = model.get_parameter("0.weight").detach().clone()
        calls.append((weight, change["0.weight"], inputs, model[1].running_mean.clone(), model[1].running_var.clone(), model.training))
        value = torch.zeros_like(weight)
        value[0], value[1] = (-1.0) ** len(calls), -1.0
        return {"0.weight": value}

    monkeypatch.setattr(ntk_sap, "change_felt", watched)
    model = nn.Sequential(nn.Linear(300, 80), nn.BatchNorm1d(80))
    kept = all_kept(model)
    kept["0.weight"][:, :150] = False
    generator = torch.Generator().manual_seed(0)
    scores = ntk_sap.spectrum_sensitivity(model, kept, shaped((50, 300), (40, 300)), epsilon=0.03, draws=2, generator=generator)
    # four calls: +1 and -1 cancel, -1 four times is 4; closed gates score 0
    assert (scores["0.weight"][0] == 0).all()
    assert (scores["0.weight"][1, 150:] == 4).all()
    assert (scores["0.weight"][1, :150] == 0).all()
    assert [len(inputs) for _, _, inputs, *_ in calls] == [50, 40, 50, 40]
    assert len({float(weight[0, 0]) for weight, *_ in calls}) == len({float(change[0, 0]) for _, change, *_ in calls}) == 4
    for weight, change, inputs, mean, variance, training in calls:
        assert weight.std().item() == pytest.approx(math.sqrt(2 / 300), rel=0.02)
        assert change.std().item() == pytest.approx(0.03, rel=0.02)
        assert inputs.std().item() == pytest.approx(1, rel=0.03)
        assert not training
        hidden = inputs @ (weight * kept["0.weight"]).T + model[0].bias
        torch.testing.assert_close(mean, hidden.mean(0), atol=1e-5, rtol=0)
        torch.testing.assert_close(variance, hidden.var(0), atol=1e-4, rtol=1e-4)
    assert model[1].momentum == 0.1
    assert model.training


def test_neither_weights_nor_data_matter_but_the_generator_does():
    data = shaped((16, 64))
    draw = lambda model, seed: ntk_sap.masks(model, data, 0.9, rounds=3, generator=torch.Generator().manual_seed(seed))["1.weight"]
    model = lenet_300_100(generator=torch.Generator().manual_seed(0))
    first = draw(model, 0)
    model[1].weight.data.mul_(-7)
    assert torch.equal(draw(model, 0), first)
    assert not torch.equal(draw(model, 1), first)


def test_rounds_keep_the_same_fraction_and_never_bring_a_weight_back(monkeypatch):
    seen, model = [], nn.Linear(20, 20)
    scores = torch.arange(400.0).view(20, 20)

    def watched(model, kept, batches, **options):
        seen.append((kept["weight"], options))
        return {"weight": scores if len(seen) % 2 else -scores}

    monkeypatch.setattr(ntk_sap, "spectrum_sensitivity", watched)
    last = ntk_sap.masks(model, [], 0.875, rounds=3, draws=5, epsilon=0.2)["weight"]
    masks = [kept for kept, _ in seen] + [last]
    assert [int(mask.sum()) for mask in masks] == [400, 200, 100, 50]
    assert all(not (later & ~earlier).any() for earlier, later in itertools.pairwise(masks))
    assert seen[0][1] == {"epsilon": 0.2, "draws": 5, "generator": None}


class Partly(nn.Module):
    """With a layer that nothing runs through."""

    def __init__(self):
        super().__init__()
        self.used, self.unused = nn.Linear(2, 2), nn.Linear(2, 2)

    def forward(self, x):
        return self.used(x)


def test_a_layer_that_the_outputs_do_not_depend_on_scores_0():
    scores = ntk_sap.spectrum_sensitivity(Partly(), all_kept(Partly()), shaped((4, 2)))
    assert (scores["unused.weight"] == 0).all()
    assert (scores["used.weight"] > 0).all()


def test_refuses_tokens_no_data_and_arguments_out_of_range():
    model = nn.Linear(2, 1)
    with pytest.raises(ValueError, match="batches"):
        ntk_sap.masks(model, [(torch.zeros(1, 2, dtype=torch.long), torch.zeros(1))], 0.5)
    with pytest.raises(ValueError, match="batches"):
        ntk_sap.masks(model, [], 0.5)
    for wrong in ({"epsilon": 0.0}, {"draws": 0}, {"rounds": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            ntk_sap.masks(model, shaped((2, 2)), 0.5, **wrong)


@pytest.mark.claim
def test_the_kernel_s_nuclear_norm_survives_and_the_network_trains():
    # at 98 %: against one round alone, and against the same numbers per layer at random
    train, test = digits()
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        data = batches(*train, 64, generator)
        build = lambda seed=seed: lenet_300_100(generator=torch.Generator().manual_seed(seed))
        once = ntk_sap.spectrum_sensitivity(build(), all_kept(build()), data[:2], generator=generator)
        masks = {"ntk_sap": ntk_sap.masks(build(), data[:2], 0.98, generator=generator), "one round": keep_highest(once, 0.98)}
        numbers = {name: int(mask.sum()) for name, mask in masks["ntk_sap"].items()}
        masks["shuffled"] = random_masks(prunable_weights(build()), numbers, generator)
        inputs, norm, reached = torch.randn(4, 64, generator=generator), {}, {}
        for name, kept in masks.items():
            norm[name] = float(nuclear_norm(build(), {key: mask.float() for key, mask in kept.items()}, inputs).detach())
            reached[name] = accuracy(fit(build(), data, 6, [HoldMasks(kept)]), [test])
        assert norm["ntk_sap"] > 1.5 * norm["shuffled"]
        assert reached["ntk_sap"] > 0.3 + max(reached["one round"], reached["shuffled"])
