"""Counts, all by hand."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from reference_impls.core import counting
from reference_impls.zoo import networks


def test_linear_and_convolution():
    # 2 examples; 3x3 convolution 1 -> 4 on 6x6, stride 2: 3x3 places of 4*9; linear 36 -> 5
    model = nn.Sequential(nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(36, 5))
    assert counting.macs(model, torch.zeros(2, 1, 6, 6)) == 2 * (9 * 4 * 9 + 36 * 5)
    assert counting.parameters(model) == 36 + 4 + 8 + 36 * 5 + 5


def test_grouped_depthwise_and_transposed_convolution():
    inputs = torch.zeros(1, 8, 5, 5)
    assert counting.macs(nn.Conv2d(8, 12, 3, padding=1, groups=4), inputs) == 25 * 12 * 2 * 9
    assert counting.macs(nn.Conv2d(8, 16, 3, padding=1, groups=8), inputs) == 25 * 16 * 9
    assert counting.macs(nn.ConvTranspose2d(8, 3, 2, stride=2), inputs) == 25 * 8 * 3 * 4  # every input place times every weight


@pytest.mark.parametrize("causal", [False, True])
def test_attention_with_its_two_products(causal):
    # 3 examples, 5 tokens, width 8, 4 heads of 2, 2 key-value heads: projections 8*8, 8*4, 8*4, 8*8 per token
    attention = networks.Attention(8, 4, 2, causal=causal)
    assert counting.macs(attention, torch.zeros(3, 5, 8)) == 3 * (5 * (64 + 32 + 32 + 64) + 4 * 2 * 5 * 5 * 2)


def test_fused_attention_counts_as_the_same_products_written_out():
    class Written(nn.Module):
        def forward(self, query, key, value):
            return (query @ key.transpose(-2, -1)).softmax(-1) @ value

    class Fused(nn.Module):
        def forward(self, query, key, value):
            return F.scaled_dot_product_attention(query, key, value)

    tensors = torch.zeros(2, 3, 7, 4), torch.zeros(2, 3, 9, 4), torch.zeros(2, 3, 9, 4)
    assert counting.macs(Written(), *tensors) == counting.macs(Fused(), *tensors) == 2 * 2 * 3 * 7 * 9 * 4


def test_a_layer_run_twice_counts_twice_and_is_stored_once():
    layer = nn.Linear(6, 6, bias=False)
    model = nn.Sequential(layer, layer)
    assert counting.macs(model, torch.zeros(1, 6)) == 72
    assert (counting.parameters(model), counting.bytes_of(model)) == (36, 144)


def test_bytes_with_buffers_and_half_precision():
    model = nn.BatchNorm2d(4)
    assert counting.bytes_of(model) == 4 * 4 * 4 + 8  # four vectors of four float32, and the count of batches
    assert counting.bytes_of(nn.Linear(3, 2).half()) == 2 * 8


def test_sparsity_is_of_linear_and_convolution_weights_only():
    model = nn.Sequential(nn.Conv2d(1, 2, 2, bias=False), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2, 2))
    model[0].weight.data = torch.tensor([1.0, 0, 0, 1, 1, 1, 1, 1]).view(2, 1, 2, 2)
    model[3].weight.data = torch.tensor([[0.0, 2], [3, 4]])
    model[1].bias.data.zero_()
    model[3].bias.data.zero_()
    assert counting.weight_sparsity(model) == 3 / 12


def test_sparsity_counts_a_shared_weight_once():
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    model[1].weight = model[0].weight
    model[0].weight.data = torch.tensor([[0.0, 0], [0, 1]])
    model[2].weight.data = torch.ones(2, 2)
    assert counting.weight_sparsity(model) == 3 / 8


def test_report_and_mode_kept():
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Dropout()).train()
    model[0].weight.data = torch.tensor([[0.0, 1, 1], [1, 1, 1]])
    assert counting.report(model, torch.zeros(1, 3)) == counting.Report(1 / 6, 12, 6)
    assert all(module.training for module in model.modules())
    assert int(model[1].num_batches_tracked) == 0


def test_no_weights_no_sparsity():
    with pytest.raises(ValueError, match="no linear or convolution layer"):
        counting.weight_sparsity(nn.ReLU())
