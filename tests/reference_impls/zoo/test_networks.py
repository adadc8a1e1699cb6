"""The small networks: sizes by hand, parts against plain formulas, seeds."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from reference_impls.core.counting import parameters
from reference_impls.zoo import networks

IMAGES = ["lenet_300_100", "convnet", "resnet8", "densenet_small", "mobilenet_small", "vit_small"]
TEXTS = ["llama_small", "gpt_small"]


@pytest.mark.parametrize("name", IMAGES)
def test_images_give_a_score_per_class(name):
    assert getattr(networks, name)(classes=7)(torch.randn(3, 1, 8, 8)).shape == (3, 7)


@pytest.mark.parametrize("name", TEXTS)
def test_tokens_give_a_score_per_word(name):
    assert getattr(networks, name)(vocabulary=20)(torch.randint(20, (3, 6))).shape == (3, 6, 20)


@pytest.mark.parametrize("name", TEXTS)
@torch.no_grad()
def test_no_token_sees_a_later_one(name):
    model = getattr(networks, name)(vocabulary=20).eval()
    ids = torch.randint(20, (1, 6), generator=torch.Generator().manual_seed(0))
    changed = ids.clone()
    changed[0, 4] = (ids[0, 4] + 1) % 20
    difference = (model(ids) - model(changed)).abs().amax(-1)[0]
    assert difference[:4].max() < 1e-6
    assert difference[4:].min() > 1e-6


@pytest.mark.parametrize("name", [*IMAGES, *TEXTS])
def test_a_generator_decides_the_weights_and_leaves_the_global_state_alone(name):
    build = getattr(networks, name)
    state = torch.get_rng_state()
    one, same, other = (build(generator=torch.Generator().manual_seed(seed)).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert any(not torch.equal(one[key], other[key]) for key in one)
    generator = torch.Generator().manual_seed(1)
    first, second = (build(generator=generator).state_dict() for _ in range(2))
    assert any(not torch.equal(first[key], second[key]) for key in first)


def test_sizes_by_hand():
    assert parameters(networks.mlp([4, 3, 2])) == 4 * 3 + 3 + 3 * 2 + 2
    assert parameters(networks.lenet_300_100(784)) == 266610  # of the 28 x 28 digits
    # stem 9w, blocks (18w^2) + (18 + 36 + 2)w^2 + (72 + 144 + 8)w^2, norms 2 per channel: 1+2 w, 3*2 w, 3*4 w, fc 40w + 10
    w = 4
    assert parameters(networks.resnet8(width=w)) == 9 * w + (18 + 56 + 224) * w * w + 2 * (3 + 6 + 12) * w + 40 * w + 10


def test_a_tied_embedding_is_one_parameter():
    tied, untied = networks.llama_small(tied=True), networks.llama_small()
    assert tied.head.weight is tied.embedding.weight
    assert parameters(untied) - parameters(tied) == 64 * 32


@torch.no_grad()
def test_grouped_query_attention_by_its_formula():
    attention = networks.Attention(width=8, heads=4, key_value_heads=2, causal=True, bias=False)
    x = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
    query, key, value = (layer(x) for layer in (attention.query, attention.key, attention.value))
    parts = []
    for head in range(4):
        q, k, v = query[..., 2 * head : 2 * head + 2], *(t[..., 2 * (head // 2) : 2 * (head // 2) + 2] for t in (key, value))
        scores = q @ k.transpose(1, 2) / math.sqrt(2)
        parts.append(scores.masked_fill(torch.ones(5, 5).triu(1).bool(), -torch.inf).softmax(-1) @ v)
    torch.testing.assert_close(attention(x), attention.output(torch.cat(parts, -1)))


def test_rotation_makes_products_depend_on_distance_alone():
    generator = torch.Generator().manual_seed(0)
    query, key = (torch.randn(6, generator=generator, dtype=torch.float64).expand(10, 6) for _ in range(2))
    cosine, sine = (table.double() for table in networks.rotation(10, 6))
    products = networks.rotate(query, cosine, sine) @ networks.rotate(key, cosine, sine).T
    for distance in (-3, 0, 4):
        diagonal = products.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), rtol=0, atol=1e-5)
    assert (products[0, 0] - products[0, 4]).abs() > 1e-3
    torch.testing.assert_close(products[0, 0], query[0] @ key[0])


def test_a_residual_block_adds_what_it_reads():
    block = networks.ResidualBlock(3, 3, 1).eval()
    nn.init.zeros_(block.bn2.weight)
    x = torch.randn(1, 3, 4, 4)
    assert torch.equal(block(x), F.relu(x))


def test_a_dense_layer_puts_its_output_behind_its_input():
    x = torch.randn(1, 3, 4, 4)
    out = networks.DenseLayer(3, 2)(x)
    assert out.shape == (1, 5, 4, 4)
    assert torch.equal(out[:, :3], x)
