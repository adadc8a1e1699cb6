"""Attention heads by L0 gates (voita2019analyzing): by hand, against attention written out head by head, and by its claim."""

import copy
import math
from functools import partial

import pytest
import torch

from reference_impls.after_training import head_gates
from reference_impls.core import counting
from reference_impls.core.amounts import Strength
from reference_impls.core.masks import prunable_weights
from reference_impls.core.surgery import remove
from reference_impls.core.training import accuracy, cross_entropy, fit
from reference_impls.zoo.data import batches, digits, sequences
from reference_impls.zoo.networks import gpt_small, llama_small, mlp, resnet8, vit_small

IMAGES = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
BATCHES = [(IMAGES, torch.tensor([0, 1, 2, 0, 1, 2]))]
TOKENS = sequences(3, 8, 64, torch.Generator().manual_seed(0))[0]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def started(model, inputs, values=(-3.0, 0.5, -1.0, 3.0), strength=0.0):
    """The model with its gates in place: log alpha as given, for every layer."""
    gating = head_gates.callbacks(model, Strength(strength), generator=seeded(3))[0]
    gating.start(model, torch.optim.SGD(model.parameters(), lr=0.1))
    model(inputs)
    for log_alpha in gating.log_alpha.values():
        log_alpha.data = torch.tensor(values[-len(log_alpha) :]).to(log_alpha)
    return gating


def test_by_hand():
    # log alpha (-3, 0.5): sigmoid 0.047426 and 0.622459, stretched -0.043 and 0.646951; two inputs of the mixing layer a head
    model = vit_small(width=4, layers=1, heads=2, patch=4, generator=seeded()).double()
    gating = started(model, IMAGES, (-3.0, 0.5))
    before = model.blocks[0].attention.output.weight.detach().clone()
    # 0.2 (sigmoid(-3 + 0.33 log 11) + sigmoid(0.5 + 0.33 log 11)) = 0.2 (0.098970 + 0.784383) = 0.176671: log 11 = 2.397895
    gating.strength = 0.2
    assert gating.penalty(model).item() == pytest.approx(0.176671, abs=1e-5)
    small = gating.finish(model)
    attention = small.blocks[0].attention
    assert attention.heads == 1 and attention.query.weight.shape == (2, 4)
    torch.testing.assert_close(attention.output.weight.detach(), before[:, 2:] * 0.6469512, rtol=1e-6, atol=0)


def test_training_samples_one_gate_per_head_for_the_whole_batch():
    model = vit_small(layers=1, generator=seeded()).double().train()
    gating = started(model, IMAGES)
    gating.generator.manual_seed(9)
    outputs = model(IMAGES)
    noise = torch.rand(4, generator=seeded(9)).double()
    concrete = 1 / (1 + ((1 - noise) / noise * torch.exp(-gating.log_alpha["blocks.0.attention.query"])) ** (1 / 0.33))
    gates = (1.2 * concrete - 0.1).clamp(0, 1)
    # the block written out, each head apart: x + sum_i g_i softmax(q_i k_i / sqrt(8)) v_i W_i
    block = model.blocks[0]
    x = model.patches(IMAGES).flatten(2).transpose(1, 2)
    x = torch.cat([model.class_token.expand(6, -1, -1), x], 1) + model.positions
    normed, attention = block.attention_norm(x), block.attention
    mixed = attention.output.bias
    for head, gate in enumerate(gates):
        own = slice(8 * head, 8 * head + 8)
        query, key, value = (part(normed)[..., own] for part in (attention.query, attention.key, attention.value))
        weights = (query @ key.transpose(1, 2) / math.sqrt(8)).softmax(-1)
        mixed = mixed + gate * (weights @ value) @ attention.output.weight[:, own].T
    x = x + mixed
    x = x + block.mlp(block.mlp_norm(x))
    torch.testing.assert_close(outputs, model.head(model.norm(x)[:, 0]))


@pytest.mark.parametrize(("build", "inputs"), [(vit_small, IMAGES), (gpt_small, TOKENS), (llama_small, TOKENS)])
def test_what_comes_out_computes_what_the_gated_network_does_without_noise(build, inputs):
    model = build(generator=seeded()).double()
    gating = started(model, inputs)
    gated, dense = model.eval()(inputs), counting.macs(model, inputs)
    small = gating.finish(model)
    torch.testing.assert_close(small(inputs), gated)
    # sigmoid(-3) 1.2 - 0.1 < 0: of (-3, 0.5, -1, 3) one goes; a Llama has two pairs of heads with (-1, 3), and both stay
    assert [block.attention.heads for block in small.blocks] == ([4, 4] if build is llama_small else [3, 3])
    assert build is llama_small or counting.macs(small, inputs) < dense
    assert not any(module._forward_pre_hooks for module in small.modules())


def test_a_step_of_training_moves_gates_and_weights():
    model = vit_small(generator=seeded()).double()
    other = copy.deepcopy(model)
    gating = head_gates.callbacks(model, Strength(0.3), learning_rate=5.0, generator=seeded(3))
    fit(model, BATCHES, 1, gating, optimizer=partial(torch.optim.SGD, lr=0.1))
    # the same loss, its gates put in by hand
    generator, values = seeded(3), {}
    for place, block in enumerate(other.blocks):
        values[place] = torch.zeros(4).double().requires_grad_()
        noise = torch.rand(4, generator=generator).double()
        gates = (1.2 * ((noise.logit() + values[place]) / 0.33).sigmoid() - 0.1).clamp(0, 1)
        block.attention.output.register_forward_pre_hook(lambda _, args, gates=gates: args[0] * gates.repeat_interleave(8))
    price = sum((value - 0.33 * math.log(0.1 / 1.1)).sigmoid().sum() for value in values.values())
    (cross_entropy(other(IMAGES), BATCHES[0][1]) + 0.3 * price).backward()
    for place, name in enumerate(("blocks.0.attention.query", "blocks.1.attention.query")):
        torch.testing.assert_close(gating[0].log_alpha[name].detach(), -5.0 * values[place].grad)
    expected = (other.head.weight - 0.1 * other.head.weight.grad).detach()
    torch.testing.assert_close(model.head.weight.detach(), expected)


def test_one_head_of_each_layer_stays_as_it_is():
    model = vit_small(layers=1, generator=seeded()).double()
    gating = started(model, IMAGES, (-4.0, -3.0, -4.0, -5.0))
    before, gated = model.blocks[0].attention.output.weight.detach().clone(), model.eval()(IMAGES)
    small = gating.finish(model)
    torch.testing.assert_close(small(IMAGES), gated)
    assert torch.equal(small.blocks[0].attention.output.weight.detach(), before[:, 8:16])


def test_refuses_networks_without_heads_and_a_rate_out_of_range():
    for model in (mlp((64, 4, 3)), resnet8()):
        with pytest.raises(ValueError, match="no attention head"):
            fit(model.double(), BATCHES, 1, head_gates.callbacks(model, Strength(0.1)))
    for rate in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="learning_rate"):
            head_gates.callbacks(vit_small(), Strength(0.1), learning_rate=rate)


def test_refuses_weights_that_are_no_numbers_at_once():
    model = vit_small()
    next(iter(prunable_weights(model).values())).data.flatten()[0] = math.nan
    with pytest.raises(ValueError, match="NaN"):
        head_gates.callbacks(model, Strength(0.1))


@pytest.mark.claim
def test_most_heads_can_go_and_the_gates_know_which():
    # half of the heads and more go in eight epochs after training. The rival trains as long without gates and then keeps as many heads of
    # each layer: those with the largest weights in the mixing layer, or any
    (inputs, targets), (test_inputs, test_targets) = digits()
    test, adam = batches(test_inputs, test_targets, 360), partial(torch.optim.Adam, lr=0.003)
    found, heads = {"gated": 0.0, "largest": 0.0, "random": 0.0}, []
    for seed in range(3):
        train = batches(inputs, targets, 64, seeded(seed))
        model = fit(vit_small(heads=8, patch=4, generator=seeded(seed)), train, 6, optimizer=adam)
        rival = copy.deepcopy(model)
        small = fit(model, train, 8, head_gates.callbacks(model, Strength(0.1), learning_rate=0.1, generator=seeded(seed)), optimizer=adam)
        fit(rival, train, 8, optimizer=adam)
        kept, generator = {"largest": {}, "random": {}}, seeded(seed)
        groups = head_gates.head_groups(rival, inputs[:1])
        for group, block in zip(groups, small.blocks, strict=True):
            weight = rival.get_parameter(group.consumers[0].tensor).detach()
            sizes = {"largest": weight.unflatten(1, (8, 4)).norm(dim=(0, 2)), "random": torch.rand(8, generator=generator)}
            for name, size in sizes.items():
                kept[name][group.name] = size >= size.sort(descending=True).values[block.attention.heads - 1]
        heads.append(sum(block.attention.heads for block in small.blocks))
        found["gated"] += accuracy(small, test) / 3
        for name, masks in kept.items():
            found[name] += accuracy(remove(rival, groups, masks), test) / 3
    assert max(heads) <= 8  # of 16
    assert found["gated"] > 0.9
    assert found["gated"] > found["largest"] + 0.05
    assert found["gated"] > found["random"] + 0.08
