"""ToMe (bolya2023token): by hand, against a loop over tokens, on copies that merge without a trace, against other ways to lose tokens."""

import pytest
import torch
from torch.nn import functional as F

from reference_impls.core import counting
from reference_impls.core.training import accuracy, fit
from reference_impls.run_time import token_merging
from reference_impls.run_time.token_merging import match, merge, wrap
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import convnet, vit_small


def test_matching_by_hand():
    # tokens 0..5: first set 0 (class), 2, 4; second set 1, 3, 5. Keys by angle: 0: 0, 1: 0, 2: 30, 3: 90, 4: 80, 5: 45 degrees;
    # lengths play no part. Token 2: 30 from token 1, 60 from 3, 15 from 5 -> 5. Token 4: 80, 10, 35 -> 3, closer than the pair 2-5.
    # One pair: 4 into 3, which are places 2 and 1 of their sets; class token and token 2 stay. Two pairs: 4 into 3, then 2 into 5
    angles = torch.tensor([0.0, 0.0, 30.0, 90.0, 80.0, 45.0]).deg2rad()
    keys = torch.stack([angles.cos(), angles.sin()], -1)[None] * torch.tensor([1.0, 9.0, 2.0, 0.1, 5.0, 1.0])[:, None]
    assert [found.tolist() for found in match(keys, 1)] == [[[0, 1]], [[2]], [[1]]]
    assert [found.tolist() for found in match(keys, 2)] == [[[0]], [[2, 1]], [[1, 2]]]


def test_merging_by_hand():
    # the same tokens with values 0, 10, 20, 30, 40, 50 and sizes 1, 1, 2, 3, 1, 1
    # 4 into 3: (1*40 + 3*30) / 4 = 32.5; 2 into 5: (2*20 + 1*50) / 3 = 30
    angles = torch.tensor([0.0, 0.0, 30.0, 90.0, 80.0, 45.0]).deg2rad()
    keys = torch.stack([angles.cos(), angles.sin()], -1)[None]
    values, sizes = torch.tensor([[0.0, 10.0, 20.0, 30.0, 40.0, 50.0]])[..., None], torch.tensor([[1.0, 1.0, 2.0, 3.0, 1.0, 1.0]])
    tokens, now = merge(values, sizes, keys, 1)
    assert tokens[0, :, 0].tolist() == [0.0, 20.0, 10.0, 32.5, 50.0]
    assert now.tolist() == [[1.0, 2.0, 1.0, 4.0, 1.0]]
    tokens, now = merge(values, sizes, keys, 2)
    assert tokens[0, :, 0].tolist() == pytest.approx([0.0, 10.0, 32.5, 30.0])
    assert now.tolist() == [[1.0, 1.0, 4.0, 3.0]]


def test_merging_is_what_a_loop_over_tokens_does():
    torch.manual_seed(0)
    tokens, sizes, keys = torch.randn(3, 11, 4), torch.randint(1, 5, (3, 11)).float(), torch.randn(3, 11, 6)
    found, now = merge(tokens, sizes, keys, 4)
    for example in range(3):
        pairs = []
        for one in range(2, 11, 2):
            similar = {other: F.cosine_similarity(keys[example, one], keys[example, other], 0).item() for other in range(1, 11, 2)}
            best = max(similar, key=similar.get)
            pairs.append((similar[best], one, best))
        chosen = {one: into for _, one, into in sorted(pairs, reverse=True)[:4]}
        members = [[place] for place in range(0, 11, 2) if place not in chosen]
        members += [[place, *(one for one, into in chosen.items() if into == place)] for place in range(1, 11, 2)]
        for place, group in enumerate(members):
            weight = sizes[example, group]
            torch.testing.assert_close(found[example, place], (weight[:, None] * tokens[example, group]).sum(0) / weight.sum())
            assert now[example, place] == weight.sum()


def test_copies_merge_without_a_trace():
    # where every patch stands twice side by side, merging the copies changes nothing, because attention counts them twice;
    # without proportional attention it does
    torch.manual_seed(0)
    model = vit_small(layers=3).eval()
    model.positions.data.zero_()
    patches = torch.randn(2, 8, 1, 2, 1, 2).expand(-1, -1, -1, -1, 2, -1)  # pairs of equal patches of 2x2 pixels
    images = patches.reshape(2, 4, 2, 2, 2, 2).permute(0, 1, 3, 2, 4, 5).reshape(2, 1, 8, 8)
    assert torch.equal(images[:, :, :, 0:2], images[:, :, :, 2:4])
    # tokens 1 and 2, 3 and 4, ..: one of each set. Eight pairs in the first layer, nothing afterwards
    merging = wrap(model, 0.5)
    merging.counts = lambda patches: [8, 0, 0]
    torch.testing.assert_close(merging(images), model(images), rtol=1e-4, atol=1e-5)
    merging.proportional = False
    assert (merging(images) - model(images)).abs().max() > 1e-3


def test_sizes_always_add_up_to_all_tokens(monkeypatch):
    seen = []
    real = token_merging.merge

    def watched(tokens, sizes, keys, count):
        found = real(tokens, sizes, keys, count)
        seen.append(found[1])
        return found

    monkeypatch.setattr(token_merging, "merge", watched)
    wrap(vit_small(layers=3), 0.75)(torch.randn(2, 1, 8, 8))
    assert [sizes.shape[1] for sizes in seen] == [13, 9, 5]
    assert all((sizes.sum(1) == 17).all() and (sizes[:, 0] == 1).all() for sizes in seen)
    assert seen[-1].max() > 2


@pytest.mark.parametrize(
    ("layers", "amount", "counts"), [(2, 0.5, [4, 4]), (3, 0.5, [2, 3, 3]), (2, 0.0, [0, 0]), (2, 0.9, [7, 4]), (4, 0.99, [4, 4, 4, 2])]
)
def test_patches_are_merged_in_equal_numbers_and_at_most_half_of_them(layers, amount, counts):
    # 0.9: round(14.4) = 14, so 7 and 7, but of 9 patches left only 4 can merge. 0.99: 16, 4 each, but of 4 left only 2
    merging = wrap(vit_small(layers=layers), amount)
    assert merging.counts(16) == counts
    seen = []
    for block in merging.network.blocks:
        block.mlp.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[1]))
    merging(torch.randn(2, 1, 8, 8))
    assert seen == [17 - sum(counts[: layer + 1]) for layer in range(layers)]


def test_asked_for_nothing_it_computes_what_the_network_computes():
    model, images = vit_small().eval(), torch.randn(2, 1, 8, 8)
    torch.testing.assert_close(wrap(model, 0.0)(images), model(images))
    assert wrap(model, 0.0).penalty() == 0


def test_the_similarity_is_that_of_keys_averaged_over_heads():
    torch.manual_seed(0)
    merging = wrap(vit_small(), 0.5)
    attention, tokens = merging.network.blocks[0].attention, torch.randn(2, 5, 32)
    mixed, keys = merging.attend(attention, tokens, torch.ones(2, 5))
    projected = attention.key(tokens)
    torch.testing.assert_close(keys, sum(projected[..., 8 * head : 8 * head + 8] for head in range(4)) / 4)
    torch.testing.assert_close(mixed, attention(tokens))


def test_macs_by_hand():
    # 16 patches of 4 pixels, width 32, two layers: patches 2048, head 320
    # layer 1: attention on 17 tokens 4*1024*17 + 2*289*32 = 88128, matching 9*8*8 = 576, MLP on 13 tokens 8*1024*13 = 106496
    # layer 2: attention on 13 tokens 53248 + 10816 = 64064, matching 7*6*8 = 336, MLP on 9 tokens 73728
    expected = 2048 + 320 + 88128 + 576 + 106496 + 64064 + 336 + 73728
    assert wrap(vit_small(), 0.5).macs(torch.randn(3, 1, 8, 8)).tolist() == [expected] * 3
    assert expected < counting.macs(vit_small(), torch.randn(1, 1, 8, 8))


def test_wrap_leaves_the_given_network_alone_and_says_what_it_needs():
    model = vit_small().eval()
    merging = wrap(model, 0.5)
    assert merging.network is not model
    assert not merging.training
    with pytest.raises(ValueError, match="class_token"):
        wrap(convnet(), 0.5)
    model.head.weight.data[0] = torch.nan
    with pytest.raises(ValueError, match="NaN"):
        wrap(model, 0.5)


def dropped(tokens, sizes, keys, count):
    """The same choice, but what would be merged is lost."""
    staying, _, _ = match(keys, count)
    first = tokens[:, ::2].gather(1, staying[..., None].expand(-1, -1, tokens.shape[-1]))
    return torch.cat([first, tokens[:, 1::2]], 1), sizes[:, : tokens.shape[1] - count]


def randomly_dropped(tokens, sizes, keys, count):
    return dropped(tokens, sizes, torch.randn_like(keys), count)


def mismatched(tokens, sizes, keys, count):
    """The least similar pairs are merged."""
    keys = keys.clone()
    keys[:, ::2] *= -1
    return merge(tokens, sizes, keys, count)


@pytest.mark.claim
def test_without_training_merging_changes_less_than_dropping_or_mismatching(monkeypatch):
    # digits in one of four corners; half of the patches go. Measured is the divergence of the classes from the whole network's, which
    # sees more than accuracy: on plain digits, whose patches all differ, accuracy alone was no worse where the same tokens were dropped
    def cornered(images, generator):
        canvas = images.new_full((len(images), 1, 16, 16), images.min().item())
        for place, image, corner in zip(canvas, images, torch.randint(4, (len(images),), generator=generator).tolist(), strict=True):
            place[:, 8 * (corner // 2) :, 8 * (corner % 2) :][:, :8, :8] = image
        return canvas

    (inputs, targets), (test_inputs, test_targets) = digits()
    generator = torch.Generator().manual_seed(0)
    inputs, test_inputs = cornered(inputs, generator), cornered(test_inputs, generator)
    test, lost = batches(test_inputs, test_targets, 360), []
    for seed in range(3):
        torch.manual_seed(seed)
        generator = torch.Generator().manual_seed(seed)
        train = batches(inputs, targets, 64, generator)
        whole = vit_small(layers=3, image=16, patch=4, generator=generator)
        fit(whole, train, 6, optimizer=lambda parameters: torch.optim.Adam(parameters, 0.003))
        merging, divergence = wrap(whole, 0.5), {}
        with torch.no_grad():
            classes = whole(test_inputs).log_softmax(-1)
            for rule in (merge, dropped, randomly_dropped, mismatched):
                monkeypatch.setattr(token_merging, "merge", rule)
                divergence[rule] = F.kl_div(merging(test_inputs).log_softmax(-1), classes, log_target=True, reduction="batchmean").item()
        assert divergence[merge] < 0.3 * divergence[dropped]
        assert divergence[merge] < 0.05 * min(divergence[randomly_dropped], divergence[mismatched])
        monkeypatch.setattr(token_merging, "merge", merge)
        lost.append(accuracy(whole, test) - accuracy(wrap(whole, 0.75), test))
    assert sum(lost) / 3 < 0.01
