"""DynamicViT (rao2021dynamicvit): by hand, masked attention against real removal, its penalty term by term, and against random tokens."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from reference_impls.core import counting
from reference_impls.core.training import OwnPenalty, accuracy, fit
from reference_impls.run_time.dynamic_vit import Predictor, attend, masked_softmax, wrap
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import Attention, convnet, vit_small


def pruned(amount=0.4, layers=4, **options):
    torch.manual_seed(0)
    made = wrap(vit_small(layers=layers).eval(), amount, generator=torch.Generator().manual_seed(0), **options)
    for predictor in made.predictors:  # scores that differ clearly from token to token
        for layer in (predictor.inward[1], predictor.outward[0], predictor.outward[2], predictor.outward[4]):
            nn.init.normal_(layer.weight, std=0.3)
    return made


def test_masked_softmax_by_hand():
    # scores of every token: ln 1, ln 2, ln 3 of the three tokens; the second is dropped
    # first and third token see 1 and 3: 1/4, 0, 3/4. The second sees itself besides: 1/6, 2/6, 3/6
    scores = torch.tensor([1.0, 2.0, 3.0]).log().expand(1, 1, 3, 3)
    found = masked_softmax(scores, torch.tensor([[1.0, 0.0, 1.0]]))[0, 0]
    torch.testing.assert_close(found, torch.tensor([[1 / 4, 0, 3 / 4], [1 / 6, 2 / 6, 3 / 6], [1 / 4, 0, 3 / 4]]))
    assert masked_softmax(torch.tensor([[[[200.0, 100.0]] * 2]]), torch.ones(1, 2)).isfinite().all()


def test_attention_to_kept_tokens_is_attention_without_the_others():
    torch.manual_seed(0)
    attention, tokens = Attention(8, 2), torch.randn(3, 5, 8)
    kept = [0, 2, 3]
    keep = torch.zeros(3, 5)
    keep[:, kept] = 1
    torch.testing.assert_close(attend(attention, tokens, keep)[:, kept], attention(tokens[:, kept]))
    torch.testing.assert_close(attend(attention, tokens, torch.ones(3, 5)), attention(tokens))


def test_masked_training_computes_what_removal_computes(monkeypatch):
    # the drawn decision is replaced by the one of use: the highest scores among the tokens left
    dynamic = pruned()
    counts = iter([16 - round(gone * 16) for gone in (0.4, 0.64, 0.784)])

    def best(scores, hard):
        assert hard
        left = dynamic.left if hasattr(dynamic, "left") else torch.ones(scores.shape[:2])
        chosen = scores[..., 0].masked_fill(left == 0, -torch.inf).topk(next(counts), 1).indices
        dynamic.left = torch.zeros_like(left).scatter(1, chosen, 1.0)
        return torch.stack([dynamic.left, 1 - dynamic.left], -1)

    monkeypatch.setattr(F, "gumbel_softmax", best)
    images = torch.randn(6, 1, 8, 8)
    trained = dynamic.train()(images)
    torch.testing.assert_close(trained, dynamic.eval()(images), rtol=1e-4, atol=1e-5)
    assert dynamic.left.sum(1).tolist() == [3.0] * 6
    assert len(dynamic.left.unique(dim=0)) > 1
    # the ratios of all three stages are met up to rounding: (10, 6, 3) of 16 where 9.6, 5.76 and 3.456 are asked
    expected = sum(((count - asked) / 16) ** 2 for count, asked in ((10, 9.6), (6, 5.76), (3, 3.456))) / 3
    assert dynamic.terms["ratio"].item() == pytest.approx(expected, rel=1e-3)


def test_a_token_that_was_dropped_stays_dropped(monkeypatch):
    dynamic = pruned()
    found = []

    def half(scores, hard):
        keep = torch.zeros(scores.shape[:2])
        keep[:, len(found) * 4 :] = 1  # the second stage would keep tokens 4 to 16, the third 8 to 16
        found.append(keep)
        return torch.stack([keep.flip(1), 1 - keep.flip(1)], -1) if len(found) == 3 else torch.stack([keep, 1 - keep], -1)

    monkeypatch.setattr(F, "gumbel_softmax", half)
    dynamic.train()(torch.randn(2, 1, 8, 8))
    # kept: 16, then 12, then those of 4 to 16 that are among 0 to 8: 4
    expected = ((16 / 16 - 0.6) ** 2 + (12 / 16 - 0.36) ** 2 + (4 / 16 - 0.216) ** 2) / 3
    assert dynamic.terms["ratio"].item() == pytest.approx(expected, rel=1e-4)


def test_a_predictor_by_hand():
    # after the first projection (identity on a norm without effect) features are GELU(x); the second half is replaced by its mean
    # over the tokens left: tokens (2, 4), (0, 8), (5, 100), the last one dropped; GELU leaves such numbers nearly as they are
    # means of the second half: (4 + 8) / 2 = 6, so tokens (2, 6), (0, 6), (5, 6)
    predictor = Predictor(8)
    predictor.inward[0], predictor.outward = nn.Identity(), nn.Identity()
    predictor.inward[1].weight.data = torch.eye(8)
    predictor.inward[1].bias.data.zero_()
    tokens = torch.tensor([[[2.0] * 4 + [4.0] * 4, [0.0] * 4 + [8.0] * 4, [5.0] * 4 + [100.0] * 4]])
    found = predictor(tokens, torch.tensor([[1.0, 1.0, 0.0]]))
    expected = torch.tensor([[[2.0] * 4 + [6.0] * 4, [0.0] * 4 + [6.0] * 4, [5.0] * 4 + [6.0] * 4]])
    torch.testing.assert_close(found, expected, atol=0.05, rtol=0)
    assert predictor(tokens, torch.zeros(1, 3)).isfinite().all()  # where no token is left
    scores = Predictor(8)(tokens, torch.ones(1, 3))
    torch.testing.assert_close(scores.exp().sum(-1), torch.ones(1, 3))


def test_the_highest_scores_stay_in_their_order_behind_the_class_token():
    tokens = torch.arange(10.0).view(2, 5, 1)
    scores = torch.tensor([[0.1, 0.9, 0.3, 0.2], [0.5, 0.5, 0.5, 0.7]])
    assert pruned().drop(tokens, scores, 2)[..., 0].tolist() == [[0.0, 2.0, 3.0], [5.0, 6.0, 9.0]]


@pytest.mark.parametrize(("amount", "counts"), [(0.0, [16, 16, 16]), (0.4, [10, 6, 3]), (0.95, [1, 1, 1])])
def test_the_number_of_patches_falls_from_stage_to_stage(amount, counts):
    # 16 - round(0.4*16 = 6.4), 16 - round(0.64*16 = 10.24), 16 - round(0.784*16 = 12.54)
    dynamic = pruned(amount)
    seen = []
    for block in dynamic.network.blocks:
        block.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[1] - 1))
    dynamic.eval()(torch.randn(2, 1, 8, 8))
    assert seen == [16, *counts]


def test_penalty_by_hand():
    # one image, two patches of width 2, only the first left: differences (1, 3) -> (1 + 9) / 2 = 5, and the second does not count
    # classes: own (1/2, 1/2), teacher's (1/4, 3/4): 1/4 ln(1/2) + 3/4 ln(3/2) = 0.130812
    # 2 * 0.3 + 1/2 (0.130812 + 5) = 3.165406
    dynamic = pruned()
    network = dynamic.teacher
    dynamic.embed = lambda images, found: torch.zeros(1, 3, 2)
    network.blocks, network.norm = nn.ModuleList(), nn.Identity()
    network.head = nn.Linear(2, 2)
    network.head.bias.data = torch.tensor([1.0, 3.0]).log()
    terms = dynamic.distances(None, torch.zeros(1, 2), torch.tensor([[[1.0, 3.0], [9.0, 9.0]]]), torch.tensor([[1.0, 0.0]]))
    assert terms["divergence"].item() == pytest.approx(0.25 * math.log(0.5) + 0.75 * math.log(1.5), rel=1e-5)
    assert terms["tokens"].item() == pytest.approx(5.0)
    dynamic.terms = {"ratio": torch.tensor(0.3), **terms}
    assert dynamic.penalty().item() == pytest.approx(3.165406, rel=1e-5)


def test_the_penalty_trains_predictors_and_leaves_the_teacher_alone():
    torch.manual_seed(0)
    dynamic = wrap(vit_small(layers=4), 0.4).train()
    assert not dynamic.teacher.training
    images = torch.randn(8, 1, 8, 8)
    outputs = dynamic(images)
    assert outputs.shape == (8, 10)
    dynamic.penalty().backward()
    assert all(predictor.outward[4].weight.grad.abs().sum() > 0 for predictor in dynamic.predictors)
    assert all(parameter.grad is None for parameter in dynamic.teacher.parameters())
    copy.deepcopy(dynamic)  # also while terms hang on a graph


def test_nothing_dropped_is_the_network_itself_and_its_own_teacher(monkeypatch):
    dynamic = pruned(0.0)
    images = torch.randn(4, 1, 8, 8)
    torch.testing.assert_close(dynamic(images), dynamic.network(images))
    monkeypatch.setattr(F, "gumbel_softmax", lambda scores, hard: torch.stack([torch.ones(4, 16), torch.zeros(4, 16)], -1))
    torch.testing.assert_close(dynamic.train()(images), dynamic.network(images), rtol=1e-4, atol=1e-5)
    assert all(term.item() == pytest.approx(0.0, abs=1e-6) for term in dynamic.terms.values())


def test_macs_by_hand():
    # 8x8 images, 16 patches of 4 pixels, width 32, one stage before the second of two layers, half of the patches dropped
    # patches 16*4*32 = 2048; layer 1 with 17 tokens: 12*32*32*17 + 2*17*17*32 = 227392; predictor 16 tokens:
    #   32*32 + 32*16 + 16*8 + 8*2 = 1680, times 16 = 26880; layer 2 with 9 tokens: 12*32*32*9 + 2*81*32 = 115776; head 320
    dynamic = pruned(0.5, layers=2)
    assert dynamic.stages == {1: 0.5}
    expected = 2048 + 227392 + 26880 + 115776 + 320
    assert dynamic.macs(torch.randn(3, 1, 8, 8)).tolist() == [expected] * 3
    assert counting.macs(vit_small(layers=2), torch.randn(1, 1, 8, 8)) == 2048 + 2 * 227392 + 320


def test_wrap_says_what_it_needs():
    assert list(pruned(0.5, layers=12).stages) == [3, 6, 9]
    assert pruned(0.5, stages=(2, 0)).stages == {0: 0.5, 2: 0.25}
    one, other = (wrap(vit_small(generator=torch.Generator()), 0.5, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(one.predictors[0].inward[1].weight, other.predictors[0].inward[1].weight)
    assert 0.01 < one.predictors[0].inward[1].weight.std() < 0.03
    assert one.predictors[0].inward[1].bias.abs().max() == 0
    with pytest.raises(ValueError, match="class_token"):
        wrap(convnet(), 0.5)
    for stages in ((), (4,), (-1,)):
        with pytest.raises(ValueError, match="stages"):
            pruned(0.5, stages=stages)
    model = vit_small()
    model.head.weight.data[0] = torch.nan
    with pytest.raises(ValueError, match="NaN"):
        wrap(model, 0.5)


class Chance(nn.Module):
    """A predictor that keeps every token with the same probability, and in use any."""

    def __init__(self, rate):
        super().__init__()
        self.rate = rate

    def forward(self, tokens, left):
        if self.training:
            return torch.tensor([self.rate, 1 - self.rate]).log().expand(*tokens.shape[:2], 2)
        return torch.rand(*tokens.shape[:2], 2)


@pytest.mark.claim
def test_predicted_tokens_keep_more_than_random_ones():
    # digits in one of four corners, 4 of 16 patches; 6 patches enter the first layer, 3 the rest. The rival is trained as long and
    # drops as many, but any: 34 points lower. (Behind a first full layer, where all patches have seen each other, both are equal.)
    def cornered(images, generator):
        canvas = images.new_full((len(images), 1, 16, 16), images.min().item())
        for place, image, corner in zip(canvas, images, torch.randint(4, (len(images),), generator=generator).tolist(), strict=True):
            place[:, 8 * (corner // 2) :, 8 * (corner % 2) :][:, :8, :8] = image
        return canvas

    def adam(parameters):
        return torch.optim.Adam(parameters, 0.003)

    (inputs, targets), (test_inputs, test_targets) = digits()
    generator = torch.Generator().manual_seed(0)
    inputs, test_inputs = cornered(inputs, generator), cornered(test_inputs, generator)
    test, gained = batches(test_inputs, test_targets, 360), []
    for seed in range(3):
        torch.manual_seed(seed)
        generator = torch.Generator().manual_seed(seed)
        train = batches(inputs, targets, 64, generator)
        model = fit(vit_small(image=16, patch=4, generator=generator), train, 3, optimizer=adam)
        dynamic = wrap(model, 0.6, stages=(0, 1), generator=generator)
        rival = copy.deepcopy(dynamic)
        rival.predictors = nn.ModuleList(Chance(0.4) for _ in rival.predictors)
        for network in (dynamic, rival):
            fit(network, train, 4, [OwnPenalty()], optimizer=adam)
        gained.append(accuracy(dynamic, test) - accuracy(rival, test))
    assert sum(gained) / 3 > 0.1
