"""Blocks: what layers see during calibration, and what they see once earlier blocks have changed."""

import pytest
import torch
from torch import nn

from reference_impls.core.blocks import chain, prunable_layers, visit_inputs, walk


class Scale(nn.Module):
    """Multiplies by a factor; can hand its result on in a tuple, and takes a shift by keyword."""

    def __init__(self, factor, as_tuple=False):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))
        self.as_tuple = as_tuple

    def forward(self, x, scale=None, *, shift=0.0):
        out = x * self.factor * (1 if scale is None else scale) + shift
        return (out, "attention weights") if self.as_tuple else out


class Stack(nn.Module):
    """An embedding before the blocks and a head behind them, as in a language model."""

    def __init__(self, blocks, by_keyword=False, **kwargs):
        super().__init__()
        self.stem, self.blocks, self.head = nn.Linear(2, 2), nn.ModuleList(blocks), nn.Linear(2, 1)
        self.by_keyword, self.kwargs = by_keyword, kwargs
        self.stem.weight.data, self.stem.bias.data = torch.eye(2), torch.zeros(2)

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            out = block(x=x, **self.kwargs) if self.by_keyword else block(x, **self.kwargs)
            x = out[0] if isinstance(out, tuple) else out
        return self.head(x)


def batches(*values):
    return [(torch.full((1, 2), float(value)), torch.zeros(1)) for value in values]


def first_inputs(model, data):
    return [[args[0][0, 0].item() for args, _ in calls] for _, calls in walk(model, data)]


def test_each_block_sees_what_the_one_before_gives():
    # 3 -> *2 = 6 -> *5 = 30 -> *7; and the same for 4
    model = Stack([Scale(2.0), Scale(5.0), Scale(7.0)])
    assert first_inputs(model, batches(3, 4)) == [[3, 4], [6, 8], [30, 40]]


def test_a_change_in_a_block_shows_in_the_next_ones_inputs():
    model, seen = Stack([Scale(2.0), Scale(5.0), Scale(7.0)]), []
    for block, calls in walk(model, batches(3)):
        seen.append(calls[0][0][0][0, 0].item())
        with torch.no_grad():
            block.factor.mul_(10)
    assert seen == [3, 60, 3000]  # 3 * 20, then * 50


def test_the_first_output_of_a_tuple_goes_on():
    assert first_inputs(Stack([Scale(2.0, as_tuple=True), Scale(5.0)]), batches(3)) == [[3], [6]]


@pytest.mark.parametrize("by_keyword", [False, True])
def test_keywords_reach_every_block(by_keyword):
    # 3 * 2 + 1 = 7; 7 * 5 + 1 = 36
    model = Stack([Scale(2.0), Scale(5.0), Scale(1.0)], by_keyword, shift=1.0)
    if by_keyword:
        assert [calls[0][1]["x"][0, 0].item() for _, calls in walk(model, batches(3))] == [3, 7, 36]
    else:
        assert first_inputs(model, batches(3)) == [[3], [7], [36]]


def test_further_positional_arguments_stay_as_they_are():
    class Rotated(Stack):
        def forward(self, x):
            for block in self.blocks:
                x = block(x, torch.tensor(2.0))
            return x

    # 3 * 2 * 2 = 12; 12 * 5 * 2 = 120
    assert first_inputs(Rotated([Scale(2.0), Scale(5.0), Scale(1.0)]), batches(3)) == [[3], [12], [120]]


def test_all_layers_of_a_block_see_the_inputs_of_the_unpruned_block():
    # both layers of the block are visited in one pass, before either changes: 1 * 3 = 3 reaches the second
    block = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False))
    block[0].weight.data.fill_(3.0)
    block[1].weight.data.fill_(5.0)
    model, seen = nn.Sequential(block, nn.Identity()), []
    for part, calls in walk(model, [(torch.ones(1, 1), None)]):
        layers = [layer for layer in part.modules() if isinstance(layer, nn.Linear)]
        visit_inputs(part, calls, layers, lambda _, inputs: seen.append(inputs.item()))
        for layer in layers:
            layer.weight.data.zero_()
        if part is not block:
            seen.append(calls[0][0][0].item())
    assert seen == [1, 3, 0]  # and the next block sees the pruned one's output


def test_evaluation_mode_during_the_walk_and_each_modules_own_mode_after():
    model = Stack([nn.Dropout(0.5), Scale(1.0), nn.Dropout(0.5)])
    model.blocks[2].eval()
    # dropout would give 0 or 6
    assert first_inputs(model, batches(3)) == [[3], [3], [3]]
    assert [part.training for part in (model, model.stem, *model.blocks)] == [True, True, True, True, False]


def test_a_walk_left_early_leaves_no_hook_and_no_mode_behind():
    model = Stack([Scale(2.0), Scale(5.0)])
    steps = walk(model, batches(3))
    next(steps)
    steps.close()
    assert model.training
    assert not any(part._forward_pre_hooks for part in model.modules())


def test_no_gradients_are_recorded():
    for _, calls in walk(Stack([Scale(2.0), Scale(5.0)]), batches(3)):
        assert not calls[0][0][0].requires_grad
    torch.ones(1, requires_grad=True).sum().backward()  # and they are on again outside


def test_a_sequential_model_is_its_children_and_a_model_without_blocks_is_one():
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    assert chain(model) == list(model)
    stack = Stack([Scale(1.0), Scale(2.0)])
    assert chain(stack) == list(stack.blocks)
    alone = nn.Linear(2, 2)
    assert chain(alone) == [alone]


def test_calibration_data_is_needed():
    with pytest.raises(ValueError, match="batches: no calibration data"):
        next(walk(Stack([Scale(1.0)]), []))


def test_a_layer_that_is_never_called_is_named():
    block = nn.ModuleDict({"used": nn.Linear(2, 2), "idle": nn.Linear(2, 7)})
    block.forward = lambda x: block["used"](x)
    calls = [((torch.ones(1, 2),), {})]
    with pytest.raises(ValueError, match=r"out_features=7.*never called"):
        visit_inputs(block, calls, block.values(), lambda *_: None)


def test_prunable_layers_are_those_inside_the_block():
    model = Stack([nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))])
    assert list(prunable_layers(model, model.blocks[1])) == ["blocks.1.0.weight"]
    assert prunable_layers(model, model.blocks[0], done={"blocks.0.weight"}) == {}
    model.blocks[0].weight.requires_grad_(False)
    assert prunable_layers(model, model.blocks[0]) == {}
