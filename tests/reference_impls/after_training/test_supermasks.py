"""Supermasks (zhou2019deconstructing): criteria and actions by hand, the learned mask's gradient, and masks that need no training."""

import copy
from functools import partial

import pytest
import torch
from torch import nn

from reference_impls.after_training import supermasks
from reference_impls.core.masks import keep_highest
from reference_impls.core.training import accuracy, fit, momentum_sgd
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import lenet_300_100


@pytest.mark.parametrize(
    ("criterion", "scores"),
    [
        ("large_final", [5, 1, 6]),
        ("small_final", [-5, -1, -6]),
        ("large_init", [2, 3, 4]),
        ("small_init", [-2, -3, -4]),
        ("magnitude_increase", [3, -2, 2]),
        ("movement", [3, 2, 10]),
        ("large_final_same_sign", [5, 1, 0]),
        ("large_final_diff_sign", [0, 0, 6]),
    ],
)
def test_criteria_by_hand(criterion, scores):
    # 2 becomes 5, -3 becomes -1, 4 becomes -6
    assert supermasks.CRITERIA[criterion](torch.tensor([2.0, -3.0, 4.0]), torch.tensor([5.0, -1.0, -6.0])).tolist() == scores


def layer(*weights):
    made = nn.Linear(len(weights), 1)
    made.weight.data, made.bias.data = torch.tensor([weights]), torch.tensor([0.25])
    return made


@pytest.mark.parametrize(("action", "kept"), [("rewind", [2.0, -4.0]), ("constant", [3.0, -3.0])])
def test_prune_by_hand(action, kept):
    # 2, -4, 2, -4 (mean -1, deviation 3) become 5, -6, 1, 7: with their own sign the first two are the largest
    def train(model, callbacks):
        model.weight.data, model.bias.data = torch.tensor([[5.0, -6.0, 1.0, 7.0]]), torch.tensor([9.0])
        return model

    model = layer(2.0, -4.0, 2.0, -4.0)
    masked = supermasks.prune(model, [], 0.5, train=train, action=action)
    assert masked.weight.tolist() == [[*kept, 0, 0]] and masked.bias.item() == 0.25
    # by magnitude alone it would be the fourth and the second
    assert supermasks.prune(model, [], 0.5, train=train, criterion="large_final").weight.tolist() == [[0, -4, 0, -4]]


def test_each_layer_is_ranked_on_its_own():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 6), nn.Linear(6, 4))
    model[1].weight.data *= 100
    masks = supermasks.mask_by(model, model, 0.5, "large_final")
    assert {name: int(mask.sum()) for name, mask in masks.items()} == {"0.weight": 24, "1.weight": 12}


def test_reshuffling_keeps_the_values_of_what_is_kept_and_reinitialization_their_deviation():
    generator = torch.Generator().manual_seed(0)
    model = nn.Linear(100, 60)
    masks = {"weight": torch.rand(60, 100, generator=generator) < 0.5}
    initial, kept = model.weight.detach(), masks["weight"]
    make = lambda action: supermasks.masked_initial(model, masks, action, generator).weight.detach()
    shuffled = make("reshuffle")
    assert torch.equal(shuffled[kept].sort().values, initial[kept].sort().values) and not torch.equal(shuffled[kept], initial[kept])
    fresh, same_sign = make("reinitialize"), make("reinitialize_same_sign")
    for drawn in (fresh, same_sign):
        assert drawn[kept].square().mean().sqrt().item() == pytest.approx(initial.std().item(), rel=0.05)
        assert not drawn[~kept].any()
    assert torch.equal(same_sign[kept].sign(), initial[kept].sign())
    assert 0.4 < (fresh[kept].sign() == initial[kept].sign()).float().mean() < 0.6
    assert not torch.equal(make("reinitialize"), fresh)


def test_one_step_of_the_learned_mask_is_the_closed_form():
    # the loss is the sum of outputs of w m x: dL/dm = w x; sigmoid'(0) = 1/4; from 0 a step of 8 gives -8 w x / 4, whatever was drawn.
    # A second step has momentum 0.9 and sigmoid' at the new logits
    model = layer(1.0, -2.0, 0.5)
    inputs = torch.tensor([[1.0, 1.0, -4.0], [2.0, 0.0, 0.0]])
    slope = model.weight.detach() * inputs.sum(0)
    given = {"learning_rate": 8.0, "loss": lambda outputs, _: outputs.sum(), "generator": torch.Generator().manual_seed(0)}
    first = supermasks.learned_logits(model, [(inputs, torch.zeros(2))], 1, **given)["weight"]
    torch.testing.assert_close(first, -2 * slope)
    second = supermasks.learned_logits(model, [(inputs, torch.zeros(2))], 2, **given)["weight"]
    step = 8 * slope * first.sigmoid() * (1 - first.sigmoid()) - 0.9 * first
    torch.testing.assert_close(second, first - step)


def test_the_mask_is_drawn_with_the_probability_of_its_logit_and_the_weights_stay():
    seen = []
    model = nn.Linear(200, 100, bias=False)
    nn.init.ones_(model.weight)
    before = copy.deepcopy(model)

    def loss(outputs, _):  # of unit inputs, an output is a row of the masked weights; pulls the logits of the first half of rows up
        seen.append(outputs.detach().T.clone())
        return -outputs[:, :50].sum() + outputs[:, 50:].sum()

    generator = torch.Generator().manual_seed(0)
    logits = supermasks.learned_logits(
        model, [(torch.eye(200), torch.zeros(200))] * 2, 1, learning_rate=4.0, loss=loss, generator=generator
    )
    # the first draws are fair; a step of 4 / 4 makes the logits 1 and -1, with probabilities 0.731 and 0.269
    assert set(seen[0].unique().tolist()) == {0, 1}
    assert seen[0].mean().item() == pytest.approx(0.5, abs=0.02)
    assert seen[1][:50].mean().item() == pytest.approx(0.731, abs=0.02)
    assert seen[1][50:].mean().item() == pytest.approx(0.269, abs=0.02)
    assert torch.equal(model.weight, before.weight) and model.weight.grad is None and model.weight.requires_grad
    assert logits["weight"][:50].min() > 0 > logits["weight"][50:].max()


def test_a_generator_decides_what_is_learned():
    model, data = layer(1.0, -2.0, 0.5), [(torch.randn(4, 3), torch.randn(4, 1))]
    learn = lambda seed: supermasks.learned_logits(
        model, data, 3, loss=nn.functional.mse_loss, generator=torch.Generator().manual_seed(seed)
    )["weight"]
    assert torch.equal(learn(0), learn(0))
    assert any(not torch.equal(learn(0), learn(seed)) for seed in range(1, 6))


@pytest.mark.parametrize("given", [{"criterion": "best"}, {"action": "forget"}])
def test_refuses_unknown_names_before_training(given):
    with pytest.raises(ValueError, match=next(iter(given))):
        supermasks.prune(layer(1.0, 2.0), [], 0.5, train=lambda *_: 1 / 0, **given)


def test_refuses_what_cannot_be_pruned_before_training_and_no_data():
    with pytest.raises(ValueError, match="NaN"):
        supermasks.prune(layer(1.0, torch.nan), [], 0.5, train=lambda *_: 1 / 0)
    with pytest.raises(ValueError, match="amount"):
        supermasks.prune(layer(1.0, 2.0), [], 1.5, train=lambda *_: 1 / 0)
    with pytest.raises(ValueError, match="batches"):
        supermasks.learned_logits(layer(1.0, 2.0), [], 1)


@pytest.mark.claim
def test_masks_alone_lift_an_untrained_network_far_above_chance():
    (inputs, targets), test = digits()
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        data = batches(inputs, targets, 64, generator)
        model = lenet_300_100(generator=generator)
        final = fit(copy.deepcopy(model), data, 8, optimizer=partial(momentum_sgd, learning_rate=0.05))
        untrained = {
            f"{criterion} {action}": accuracy(
                supermasks.masked_initial(model, supermasks.mask_by(model, final, 0.5, criterion), action, generator), [test]
            )
            for criterion in supermasks.CRITERIA
            for action in ("rewind", "constant", "reinitialize")
        }
        good, sign = untrained["large_final_same_sign rewind"], untrained["large_final_same_sign constant"]
        assert min(good, sign) > 0.7  # the signs are enough
        assert good > untrained["magnitude_increase rewind"] > 0.5
        for wrong in ("small_final", "large_init", "small_init", "large_final_diff_sign"):
            assert untrained[f"{wrong} rewind"] < 0.3
        assert untrained["large_final_same_sign reinitialize"] < 0.4
        logits = supermasks.learned_logits(model, data, 10, generator=generator)
        assert accuracy(supermasks.masked_initial(model, keep_highest(logits, 0.5, "layer")), [test]) > 0.7
