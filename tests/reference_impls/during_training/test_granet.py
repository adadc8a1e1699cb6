"""GraNet (liu2021sparse): by hand, the masks of every step against a second reading of the algorithm, and its claim."""

import copy
import math

import pytest
import torch
from torch import nn

from reference_impls.core.training import Callback, accuracy, fit
from reference_impls.during_training import granet
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import lenet_300_100


def test_a_move_by_hand():
    # 10 weights, 6 present: 6 1 2 | 5 4 3. Step 2 of 4: sparsity 0.7 + (0.4 - 0.7) (1 - 2/4)^3 = 0.6625, so 7 of 10 go: 1, 2 and 3,
    # over both layers. Regeneration at step 2 of 8: 0.6 / 2 (1 + cos(pi / 4)) = 0.512; of one weight round(0.512) = 1 goes and comes in the
    # first layer: 6 goes, the largest gradient of absent ones is 9; of two, one: 4 goes, and comes back, its gradient 7 is the largest
    model = nn.Sequential(nn.Linear(5, 1, bias=False), nn.Linear(5, 1, bias=False))
    model[0].weight.data = torch.tensor([[6.0, -1.0, 2.0, 0.0, 0.0]])
    model[1].weight.data = torch.tensor([[5.0, 4.0, -3.0, 0.0, 0.0]])
    masks = {f"{place}.weight": torch.tensor([[True, True, True, False, False]]) for place in (0, 1)}
    moving = granet.GradualRegeneration(masks, initial=0.4, final=0.7, fraction=0.6, every=2, end=4, steps=8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9)
    moving.start(model, optimizer)
    for _ in range(2):
        assert int(moving.masks["0.weight"].sum()) == 3
        model[0].weight.grad = torch.tensor([[8.0, 1.0, 2.0, -9.0, 3.0]])
        model[1].weight.grad = torch.tensor([[9.0, 7.0, 2.0, 1.0, 6.0]])
        optimizer.step()
        moving.after_step(model, optimizer)
    assert moving.masks["0.weight"].tolist() == [[False, False, False, True, False]]
    assert moving.masks["1.weight"].tolist() == [[True, True, False, False, False]]
    assert model[0].weight.tolist() == [[0, 0, 0, 0, 0]] and model[1].weight.tolist() == [[5, 4, 0, 0, 0]]
    assert optimizer.state[model[0].weight]["momentum_buffer"][0, :3].tolist() == [0, 0, 0]


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 30), nn.ReLU(), nn.Linear(30, 20), nn.ReLU(), nn.Linear(20, 4))


class Watch(Callback):
    """Stands before and behind the moving callback, to see the step's weights and gradients, and what becomes of them."""

    def __init__(self):
        self.before, self.masks = [], []

    def after_backward(self, model, optimizer):
        self.gradients = {name: p.grad.clone() for name, p in model.named_parameters() if name.endswith("weight")}

    def after_step(self, model, optimizer):
        self.before.append(({name: p.detach().clone() for name, p in model.named_parameters() if name.endswith("weight")}, self.gradients))


class Behind(Callback):
    def __init__(self, moving, watch):
        self.moving, self.watch = moving, watch

    def after_step(self, model, optimizer):
        self.watch.masks.append(copy.copy(self.moving.masks))
        assert not any(model.get_parameter(name)[~mask].any() for name, mask in self.moving.masks.items())


def run(steps=40, amount=0.9, **given):
    model = network()
    generator = torch.Generator().manual_seed(3)
    data = [(torch.randn(16, 12, generator=generator), torch.randint(4, (16,), generator=generator)) for _ in range(steps)]
    [moving] = granet.callbacks(model, amount, steps=steps, generator=generator, **given)
    first, watch = copy.copy(moving.masks), Watch()
    fit(model, data, 1, [watch, moving, Behind(moving, watch)])
    return first, watch


def second_reading(weights, gradients, masks, sparsity, fraction):
    """Both parts of a move, weight by weight."""
    total = sum(mask.numel() for mask in masks.values())
    present = sorted((abs(weights[n].flatten()[i].item()), n, i) for n, m in masks.items() for i in range(m.numel()) if m.flatten()[i])
    kept = {(n, i) for _, n, i in present}
    if sparsity is not None:
        kept = {(n, i) for _, n, i in present[max(0, round(sparsity * total) - (total - len(present))) :]}
    for name, mask in masks.items():
        own = sorted((abs(weights[name].flatten()[i].item()), i) for n, i in kept if n == name)
        k = round(fraction * len(own))
        kept -= {(name, i) for _, i in own[:k]}
        absent = [(abs(gradients[name].flatten()[i].item()), i) for i in range(mask.numel()) if (name, i) not in kept]
        kept |= {(name, i) for _, i in sorted(absent, reverse=True)[:k]}
    return {name: torch.tensor([(name, i) in kept for i in range(mask.numel())]).view_as(mask) for name, mask in masks.items()}


def test_every_step_is_as_a_second_reading_says():
    masks, watch = run(every=8, end=20, initial=0.3, fraction=0.4)
    for step, ((weights, gradients), after) in enumerate(zip(watch.before, watch.masks, strict=True), 1):
        if step in (8, 16, 20, 24, 32, 40):
            sparsity = 0.9 - 0.6 * (1 - step / 20) ** 3 if step <= 20 else None
            masks = second_reading(weights, gradients, masks, sparsity, 0.2 * (1 + math.cos(math.pi * step / 40)))
        assert all(torch.equal(after[name], masks[name]) for name in masks), step
    assert sum(int(mask.sum()) for mask in masks.values()) == 104


def test_starts_half_dense_at_erdos_renyi_densities():
    # half of 1040 is 520; the last layer, whose share 520 / 116 * 24 is above 80, is dense: 440 / (42 + 50) = 4.783 per dimension
    first, _ = run(steps=1)
    assert {name: int(mask.sum()) for name, mask in first.items()} == {"0.weight": 201, "2.weight": 239, "4.weight": 80}
    assert all(mask.all() for mask in run(steps=1, initial=0.0)[0].values())
    assert sum(int(mask.sum()) for mask in run(steps=1, amount=0.2)[0].values()) == 832


def test_defaults():
    made = [granet.callbacks(network(), 0.9, steps=steps)[0] for steps in (1, 160, 16000)]
    assert [(moving.every, moving.end, moving.fraction) for moving in made] == [(1, 1, 0.5), (8, 110, 0.5), (100, 11000, 0.5)]


@pytest.mark.parametrize(
    "given", [{"initial": 0.6}, {"initial": -0.1}, {"fraction": 1.5}, {"every": 0}, {"end": 0}, {"end": 11}, {"steps": 0}]
)
def test_refuses_what_is_out_of_range(given):
    with pytest.raises(ValueError, match=next(iter(given))):
        granet.callbacks(network(), 0.5, **{"steps": 10, **given})
    granet.callbacks(network(), 0.5, steps=1, initial=0.5, fraction=1, every=1, end=1)


@pytest.mark.claim
def test_regeneration_helps_gradual_pruning(monkeypatch):
    train, test = digits()
    right, reached = granet.drop_and_grow, {"regenerating": 0.0, "pruned only": 0.0, "smallest gradient": 0.0}
    for seed in range(3):
        for kind in reached:
            generator = torch.Generator().manual_seed(seed)
            data = batches(*train, 64, generator)
            model = lenet_300_100(generator=generator)
            fraction = 0.0 if kind == "pruned only" else 0.5
            moving = granet.callbacks(model, 0.998, steps=15 * len(data), every=10, fraction=fraction, generator=generator)
            wrong = lambda weight, gradient, mask, fraction: right(weight, 1 / (gradient.abs() + 1e-9), mask, fraction)
            monkeypatch.setattr(granet, "drop_and_grow", wrong if kind == "smallest gradient" else right)
            reached[kind] += accuracy(fit(model, data, 15, moving), [test]) / 3
    assert reached["regenerating"] > 0.03 + max(reached["pruned only"], reached["smallest gradient"]), reached
