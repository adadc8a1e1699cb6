"""Top-KAST (jayakumar2020top): by hand, what may change and what may not, its penalty, and its claim."""

import itertools

import pytest
import torch
from torch import nn

from reference_impls.core.training import Callback, HoldMasks, accuracy, cross_entropy, fit
from reference_impls.during_training import top_kast
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import lenet_300_100


def layer(*weights):
    made = nn.Linear(len(weights), 1, bias=False)
    made.weight.data = torch.tensor([weights])
    return made


def test_a_step_by_hand():
    # of 5, -4, 3, 2, 1 the forward pass uses 5, -4; the backward one updates 5, -4, 3, 2. Gradients 1, 1, 2, -3, 9; eta 1; strength 0.1:
    # 5 - 1 - 0.5 = 3.5; -4 - 1 + 0.4 = -4.6; 3 - 2 - 0.1 * 3 / 0.4 = 0.25; 2 + 3 - 0.1 * 2 / 0.4 = 4.5; 1 stays.
    # The largest are now -4.6 and 4.5: the fourth has overtaken the first
    model = layer(5.0, -4.0, 3.0, 2.0, 1.0)
    moving = top_kast.TopKAST(0.4, 0.8, 0.1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    moving.start(model, optimizer)
    assert model.weight.tolist() == [[5, -4, 0, 0, 0]]
    model.weight.grad = torch.tensor([[1.0, 1.0, 2.0, -3.0, 9.0]])
    moving.after_backward(model, optimizer)
    optimizer.step()
    moving.after_step(model, optimizer)
    torch.testing.assert_close(moving.theta["weight"], torch.tensor([[3.5, -4.6, 0.25, 4.5, 1.0]]))
    torch.testing.assert_close(model.weight.data, torch.tensor([[0, -4.6, 0, 4.5, 0]]))
    assert moving.masks["weight"].tolist() == [[False, True, False, True, False]]
    assert moving.updated["weight"].tolist() == [[True, True, False, True, True]]


def test_the_penalty_by_hand():
    # A: 2; B without A: -3; neither: 9. 4 / 2 + (9 / 2) / 0.25 = 20
    loss = top_kast.exploration_loss(
        torch.tensor([2.0, -3.0, 9.0]), torch.tensor([True, False, False]), torch.tensor([True, True, False]), 0.25
    )
    assert loss.item() == 20


class Watch(Callback):
    def __init__(self, moving):
        self.moving, self.looks = moving, []

    def start(self, model, optimizer):
        self.after_step(model, optimizer)

    def after_step(self, model, optimizer):
        weights = {name: weight.detach().clone() for name, weight in model.named_parameters()}
        theta = {name: weight.detach().clone() for name, weight in self.moving.theta.items()}
        self.looks.append((dict(self.moving.masks), dict(self.moving.updated), theta, weights))


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 30), nn.ReLU(), nn.Linear(30, 20), nn.ReLU(), nn.Linear(20, 4))


def run(optimizer, **given):
    model = network()
    torch.manual_seed(1)
    [moving] = top_kast.callbacks(model, 0.8, **given)
    watch = Watch(moving)
    fit(model, [(torch.randn(16, 12), torch.randint(4, (16,))) for _ in range(12)], 1, [moving, watch], optimizer=optimizer)
    return watch.looks


OPTIMIZERS = [
    lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.1),
    lambda p: torch.optim.AdamW(p, 0.05, weight_decay=0.1),
]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_forward_uses_the_largest_of_each_layer_and_nothing_outside_the_backward_set_changes(optimizer):
    looks = run(optimizer)
    for masks, updated, theta, weights in looks:
        for name, mask in masks.items():
            assert int(mask.sum()) == round(0.2 * mask.numel()) and int(updated[name].sum()) == round(0.4 * mask.numel())
            assert theta[name][mask].abs().min() >= theta[name][~mask].abs().max()
            assert theta[name][updated[name]].abs().min() >= theta[name][~updated[name]].abs().max()
            assert torch.equal(weights[name], theta[name] * mask)
    for (_, updated, theta, _), (_, _, later, _) in itertools.pairwise(looks):
        for name in theta:
            assert torch.equal(theta[name][~updated[name]], later[name][~updated[name]])
            assert (theta[name] != later[name])[updated[name]].float().mean() > 0.5
    assert any((looks[0][0][name] != looks[-1][0][name]).any() for name in looks[0][0])


def test_the_gradient_is_the_sparse_networks_for_used_and_unused_weights_alike():
    model = network()
    moving = top_kast.TopKAST(0.2, 0.4, 0.0)
    moving.start(model, None)
    sparse = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    inputs, targets = torch.randn(16, 12), torch.randint(4, (16,))
    cross_entropy(model(inputs), targets).backward()
    moving.after_backward(model, None)
    probe = {name: weight.requires_grad_() for name, weight in sparse.items()}
    cross_entropy(torch.func.functional_call(model, probe, inputs), targets).backward()
    for name in moving.masks:
        expected = probe[name].grad * moving.updated[name]
        torch.testing.assert_close(model.get_parameter(name).grad, expected)
        assert expected[moving.updated[name] & ~moving.masks[name]].any()
        torch.testing.assert_close(model.get_parameter(name).data, moving.theta[name])


def test_with_equal_densities_only_what_is_used_is_updated():
    for masks, updated, _, _ in run(OPTIMIZERS[0], backward_density=0.2):
        assert all(torch.equal(masks[name], updated[name]) for name in masks)


def test_a_weight_that_the_loss_does_not_see_is_only_pulled():
    # eta 1, strength 0.1, density 0.5: 4 - 0.4 = 3.6, and of B without A 2 - 0.2 / 0.5 = 1.6
    model = layer(4.0, 2.0)
    moving, optimizer = top_kast.TopKAST(0.5, 1.0, 0.1), torch.optim.SGD(model.parameters(), lr=1.0)
    moving.start(model, optimizer)
    moving.after_backward(model, optimizer)
    optimizer.step()
    moving.after_step(model, optimizer)
    torch.testing.assert_close(moving.theta["weight"], torch.tensor([[3.6, 1.6]]))


def test_what_cannot_be_pruned_is_refused_before_training():
    with pytest.raises(ValueError, match="NaN"):
        top_kast.callbacks(layer(1.0, torch.nan), 0.5)


def test_the_backward_pass_is_twice_as_dense_by_default():
    made = [top_kast.callbacks(network(), amount)[0] for amount in (0.9, 0.3)]
    assert [moving.backward_density for moving in made] == pytest.approx([0.2, 1.0])


@pytest.mark.parametrize("given", [{"backward_density": 0.4}, {"backward_density": 1.1}, {"strength": -1.0}])
def test_refuses_what_is_out_of_range(given):
    with pytest.raises(ValueError, match=next(iter(given))):
        top_kast.callbacks(network(), 0.5, **given)
    top_kast.callbacks(network(), 0.5, backward_density=0.5, strength=0)
    top_kast.callbacks(network(), 0.5, backward_density=1)


def test_a_dense_network_without_penalty_trains_as_it_is():
    data = [(torch.randn(16, 12), torch.randint(4, (16,))) for _ in range(5)]
    plain = fit(network(), data, 1)
    model = network()
    ours = fit(model, data, 1, top_kast.callbacks(model, 0.0, strength=0))
    assert all(torch.equal(value, ours.state_dict()[name]) for name, value in plain.state_dict().items())


@pytest.mark.claim
def test_exploring_beyond_what_is_used_beats_training_the_same_sparse_network():
    train, test = digits()
    for seed in range(3):

        def reach(kind, seed=seed):
            generator = torch.Generator().manual_seed(seed)
            data = batches(*train, 64, generator)
            model = lenet_300_100(generator=generator)
            [moving] = top_kast.callbacks(model, 0.985, backward_density=0.015 + 1e-9 if kind == "nothing beyond" else None)
            if kind == "static":
                moving.start(model, None)
            return accuracy(fit(model, data, 15, [HoldMasks(moving.masks)] if kind == "static" else [moving]), [test])

        assert reach("exploring") > 0.2 + max(reach("static"), reach("nothing beyond"))
