"""ProsPr (alizadeh2022prospect): by hand, against finite differences through real training, against SNIP, and its claim."""

import pytest
import torch
from torch import nn

from reference_impls.before_training import prospr, snip
from reference_impls.core.training import HoldMasks, accuracy, fit
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import lenet_300_100, mlp


def half_square(output, target):
    return ((output - target) ** 2).sum() / 2


def one_weight(value):
    model = nn.Linear(1, 1, bias=False)
    model.weight.data = torch.tensor([[value]])
    return model


def batch(x, t):
    return torch.tensor([[x]]), torch.tensor([[t]])


def made_up(count):
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(32, 64, generator=generator), torch.randint(10, (32,), generator=generator)) for _ in range(count)]


def test_by_hand():
    # w = 2, x = 1, t = 0: loss w^2/2, one step of 0.1: w_1 = c w (1 - 0.1), loss after it (0.9 c w)^2/2,
    # by c at 1: 0.81 w^2 = 3.24. At the start the gate would be felt as w^2 = 4
    data = [batch(1.0, 0.0)]
    score = prospr.meta_gradients(one_weight(2.0), data, steps=1, loss=half_square)["weight"]
    torch.testing.assert_close(score, torch.tensor([[3.24]]))
    assert prospr.meta_gradients(one_weight(2.0), data, steps=0, loss=half_square)["weight"] == 4
    # two steps of 0.5: w_2 = c w / 4, derivative w^2 / 16 = 0.25
    score = prospr.meta_gradients(one_weight(2.0), data, steps=2, learning_rate=0.5, loss=half_square)["weight"]
    torch.testing.assert_close(score, torch.tensor([[0.25]]))


def test_every_step_takes_the_next_batch_by_hand():
    # step on x = 1, t = 0: w_1 = 0.9 c w = 1.8 c; the loss on x = 2, t = 1: (3.6 c - 1)^2/2, by c at 1: 2.6 * 3.6 = 9.36
    data = [batch(1.0, 0.0), batch(2.0, 1.0)]
    score = prospr.meta_gradients(one_weight(2.0), data, steps=1, loss=half_square)["weight"]
    torch.testing.assert_close(score, torch.tensor([[9.36]]))
    # steps on both, the loss on the first again: w_2 = 1.8 c - 0.1 * 2 (3.6 c - 1) = 1.08 c + 0.2: 1.28 * 1.08 = 1.3824
    score = prospr.meta_gradients(one_weight(2.0), data, steps=2, loss=half_square)["weight"]
    torch.testing.assert_close(score, torch.tensor([[1.3824]]))


def test_momentum_by_hand():
    # w = c: m_1 = c, w_1 = 0.9 c; m_2 = 0.5 c + 0.9 c = 1.4 c, w_2 = 0.76 c: 0.76^2 = 0.5776
    score = prospr.meta_gradients(one_weight(1.0), [batch(1.0, 0.0)], steps=2, momentum=0.5, loss=half_square)["weight"]
    torch.testing.assert_close(score, torch.tensor([[0.5776]]))


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_equals_the_finite_difference_of_real_training(momentum):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 3)).double().eval()
    data = [(2 + torch.randn(6, 3, dtype=torch.float64), torch.randint(3, (6,))) for _ in range(3)]

    def loss_after_training(name, index, gate):
        network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 3)).double()
        network.load_state_dict(model.state_dict())
        network.get_parameter(name).data.view(-1)[index] *= gate
        optimizer = torch.optim.SGD(network.parameters(), lr=0.3, momentum=momentum)
        for inputs, targets in data[:2]:
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(inputs), targets).backward()
            optimizer.step()
        return nn.functional.cross_entropy(network(data[2][0]), data[2][1]).item()

    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    scores = prospr.meta_gradients(model, data, steps=2, learning_rate=0.3, momentum=momentum)
    assert not model.training
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    for name, score in scores.items():
        slopes = [
            (loss_after_training(name, i, 1 + 1e-5) - loss_after_training(name, i, 1 - 1e-5)) / 2e-5 for i in range(0, score.numel(), 2)
        ]
        torch.testing.assert_close(score.flatten()[::2], torch.tensor(slopes, dtype=torch.float64).abs(), atol=1e-8, rtol=1e-4)


def test_without_steps_it_is_snip_on_the_first_batch():
    data = made_up(2)
    model = mlp([64, 20, 10], generator=torch.Generator().manual_seed(0))
    expected = snip.masks(model, data[:1], 0.9)
    assert all(torch.equal(mask, expected[name]) for name, mask in prospr.masks(model, data, 0.9, steps=0).items())
    moved = prospr.masks(model, data, 0.9, steps=3, learning_rate=1.0, momentum=0.5)
    again = prospr.meta_gradients(model, data, steps=3, learning_rate=1.0, momentum=0.5)
    threshold = torch.cat([score.flatten() for score in again.values()]).sort().values[1332]
    assert all(torch.equal(mask, again[name] >= threshold) for name, mask in moved.items())
    assert any(not torch.equal(mask, expected[name]) for name, mask in moved.items())


def test_frozen_parameters_do_not_move():
    # y = c w x + b with w = b = x = 1, t = 0, b frozen: the error is c + 1, so w_1 = c - 0.1 (c + 1) = 0.9 c - 0.1,
    # y = 0.9 c + 0.9, by c at 1: 1.8 * 0.9 = 1.62
    model = nn.Linear(1, 1)
    model.weight.data, model.bias.data = torch.tensor([[1.0]]), torch.tensor([1.0])
    model.bias.requires_grad_(False)
    score = prospr.meta_gradients(model, [batch(1.0, 0.0)], steps=1, loss=half_square)
    torch.testing.assert_close(score["weight"], torch.tensor([[1.62]]))
    # free: b_1 = 1 - 0.1 (c + 1) = 0.9 - 0.1 c, y = 0.8 c + 0.8: 1.6 * 0.8 = 1.28
    score = prospr.meta_gradients(model.requires_grad_(True), [batch(1.0, 0.0)], steps=1, loss=half_square)
    torch.testing.assert_close(score["weight"], torch.tensor([[1.28]]))


class Partly(nn.Module):
    """With a layer that nothing runs through."""

    def __init__(self):
        super().__init__()
        self.used, self.unused = nn.Linear(2, 2), nn.Linear(2, 2)

    def forward(self, x):
        return self.used(x)


def test_a_layer_that_the_loss_does_not_reach_scores_0():
    scores = prospr.meta_gradients(Partly(), [(torch.tensor([[1.0, 2.0]]), torch.tensor([0]))], steps=2)
    assert (scores["unused.weight"] == 0).all()
    assert (scores["used.weight"] > 0).all()


def test_refuses_no_data_and_negative_steps():
    with pytest.raises(ValueError, match="batches"):
        prospr.meta_gradients(one_weight(1.0), [])
    with pytest.raises(ValueError, match="steps"):
        prospr.meta_gradients(one_weight(1.0), [batch(1.0, 0.0)], steps=-1)


@pytest.mark.claim
def test_looking_ahead_finds_masks_that_train_better_than_those_of_the_first_moment():
    # at 99 % sparsity, on average over three seeds; SNIP sees the same eleven batches
    train, test = digits()
    gained = []
    for seed in range(3):
        data = batches(*train, 64, torch.Generator().manual_seed(seed))
        reached = {}
        for name in ("prospr", "snip"):
            model = lenet_300_100(generator=torch.Generator().manual_seed(seed))
            masks = prospr.masks(model, data, 0.99, steps=10) if name == "prospr" else snip.masks(model, data[:11], 0.99)
            reached[name] = accuracy(fit(model, data, 6, [HoldMasks(masks)]), [test])
        gained.append(reached["prospr"] - reached["snip"])
    assert sum(gained) / 3 > 0.1
