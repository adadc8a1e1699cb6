"""Wanda (sun2024simple): by hand, against the authors' code, against norms taken one by one."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from reference_impls.after_training import wanda
from reference_impls.core.amounts import NM
from reference_impls.core.masks import masked, sparsity_of
from reference_impls.core.training import accuracy, cross_entropy, fit
from reference_impls.zoo import data, networks

ORACLE = Path(__file__).parents[2] / "oracle"


def linear(*rows):
    layer = nn.Linear(len(rows[0]), len(rows), bias=False)
    layer.weight.data = torch.tensor(rows)
    return layer


def test_by_hand():
    # inputs (3, 0, 1, 2) and (4, 1, 0, 0): column norms 5, 1, 1, 2
    # row 0: |1|*5, |-4|*1, |3|*1, |1|*2 = 5, 4, 3, 2 -> the last two go, though a magnitude rule would take the first and the last
    # row 1: |-1|*5, |9|*1, |8|*1, |7|*2 = 5, 9, 8, 14 -> the first and the third go
    model = linear([1.0, -4.0, 3.0, 1.0], [-1.0, 9.0, 8.0, 7.0])
    batches = [(torch.tensor([[3.0, 0.0, 1.0, 2.0]]), None), (torch.tensor([[4.0, 1.0, 0.0, 0.0]]), None)]
    assert wanda.masks(model, batches, 0.5)["weight"].tolist() == [[True, True, False, False], [False, True, False, True]]
    # one of two: 5 > 4 and 3 > 2; 9 > 5 and 14 > 8
    assert wanda.masks(model, batches, NM(1, 2))["weight"].tolist() == [[True, False, True, False], [False, True, False, True]]


def test_importance_of_a_convolution_is_magnitude_times_the_norm_of_its_patches():
    layer, generator = nn.Conv2d(2, 3, 2, stride=2), torch.Generator().manual_seed(0)
    batches = [torch.randn(4, 2, 6, 4, generator=generator), torch.randn(3, 2, 6, 4, generator=generator)]
    scores = wanda.importance({"weight": layer}, layer, [((batch,), {}) for batch in batches])["weight"]
    inputs = torch.cat(batches)
    for channel, row, column in torch.cartesian_prod(torch.arange(2), torch.arange(2), torch.arange(2)).tolist():
        norm = inputs[:, channel, row::2, column::2].norm()
        torch.testing.assert_close(scores[:, channel, row, column], layer.weight[:, channel, row, column].abs() * norm)


def test_a_grouped_convolution_looks_at_its_own_groups_inputs():
    layer, generator = nn.Conv2d(4, 6, 1, groups=2), torch.Generator().manual_seed(0)
    inputs = torch.randn(3, 4, 5, 5, generator=generator)
    scores = wanda.importance({"weight": layer}, layer, [((inputs,), {})])["weight"]
    for output in range(6):
        for channel in range(2):
            norm = inputs[:, 2 * (output // 3) + channel].norm()
            torch.testing.assert_close(scores[output, channel, 0, 0], layer.weight[output, channel, 0, 0].abs() * norm)


class Block(nn.Module):
    """The block of the frozen cases: one layer behind tanh, two around GELU, each around an identity."""

    def __init__(self):
        super().__init__()
        self.q, self.up, self.down = nn.Linear(24, 24, bias=False), nn.Linear(24, 48, bias=False), nn.Linear(48, 24, bias=False)

    def forward(self, x):
        x = x + torch.tanh(self.q(x))
        return x + self.down(nn.functional.gelu(self.up(x)))


@pytest.mark.parametrize(("case", "amount"), [("wanda_unstr50", 0.5), ("wanda_nm2_4", NM(2, 4))])
def test_same_masks_as_the_authors_code(case, amount):
    # its rule: int(0.5 * columns) per row, and 2 pruned of 4: ours is the same at an even number of columns
    frozen = {key: torch.from_numpy(value) for key, value in np.load(ORACLE / f"{case}.npz").items()}
    model = nn.Sequential(Block(), Block())
    model.load_state_dict({key.removeprefix("before."): value for key, value in frozen.items() if key.startswith("before.")})
    batches = [(sequence[None], None) for sequence in frozen["calib_inputs_layer0"]]
    found = wanda.masks(model, batches, amount)
    assert len(found) == 6
    for name, mask in found.items():
        assert torch.equal(~mask, frozen[f"pruned.{name}"])
    with torch.no_grad():
        torch.testing.assert_close(masked(model, found)(frozen["calib_inputs_layer0"]), frozen["final_hidden"])


def test_rows_of_odd_length_lose_the_rounded_number():
    # round(0.5 * 7) = 4 (half to even), round(0.3 * 7) = 2
    model, inputs = nn.Linear(7, 3), torch.randn(9, 7, generator=torch.Generator().manual_seed(0))
    assert (~wanda.masks(model, [(inputs, None)], 0.5)["weight"]).sum(1).tolist() == [4, 4, 4]
    assert (~wanda.masks(model, [(inputs, None)], 0.3)["weight"]).sum(1).tolist() == [2, 2, 2]


def test_the_head_of_a_language_model_stays_dense():
    model = networks.llama_small()
    tokens = data.sequences(4, 8, 64, torch.Generator().manual_seed(0))
    found = wanda.masks(model, [tokens], 0.5)
    assert all(name.startswith("blocks.") for name in found)
    assert len(found) == 14  # four attention layers and three of the gated MLP, twice
    assert sparsity_of(found) == 0.5


class Plain(nn.Module):
    """Blocks without anything to prune, and a head behind them."""

    def __init__(self):
        super().__init__()
        self.blocks, self.head = nn.ModuleList([nn.ReLU()]), nn.Linear(2, 2)

    def forward(self, x):
        return self.head(self.blocks[0](x))


def test_nothing_inside_the_blocks_is_refused():
    with pytest.raises(ValueError, match="nothing to prune inside"):
        wanda.masks(Plain(), [(torch.ones(1, 2), None)], 0.5)


class SelfAttention(nn.MultiheadAttention):
    """PyTorch's attention, which uses the weight of its output layer without calling that layer."""

    def forward(self, x):
        return super().forward(x, x, x)[0]


def test_a_layer_used_only_by_its_weight_is_refused():
    with pytest.raises(ValueError, match="never called"):
        wanda.masks(SelfAttention(4, 2, batch_first=True), [(torch.ones(1, 3, 4), None)], 0.5)


@pytest.mark.claim
def test_beats_magnitude_where_some_inputs_are_far_stronger():
    # The paper's setting: trained weights, inputs of very different size. Scaling a norm's channels up and the next
    # layer's weights down leaves the network as it is, and hides from their magnitude which weights matter.
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        tokens = data.sequences(256, 24, 64, generator)
        batches = data.batches(*tokens, 32)
        model = fit(networks.gpt_small(generator=generator), batches, 8, optimizer=lambda p: torch.optim.Adam(p, 3e-3))
        with torch.no_grad():
            for block in model.blocks:
                for norm, layers in (
                    (block.attention_norm, (block.attention.query, block.attention.key, block.attention.value)),
                    (block.mlp_norm, (block.mlp.up,)),
                ):
                    strength = torch.where(torch.rand(32, generator=generator) < 0.1, 20.0, 1.0)
                    norm.weight.mul_(strength)
                    norm.bias.mul_(strength)
                    for layer in layers:
                        layer.weight.div_(strength)
        found = wanda.masks(model, batches[:2], 0.5)
        by_magnitude = wanda.keep_highest({name: model.get_parameter(name).detach().abs() for name in found}, 0.5, "row")
        loss = {}
        for name, pruned in (("dense", model), ("wanda", masked(model, found)), ("magnitude", masked(model, by_magnitude))):
            with torch.no_grad():
                loss[name] = cross_entropy(pruned.eval()(tokens[0]), tokens[1]).item()
        assert loss["wanda"] - loss["dense"] < 0.5 * (loss["magnitude"] - loss["dense"]), loss
        assert accuracy(masked(model, found), [tokens]) > accuracy(masked(model, by_magnitude), [tokens])
