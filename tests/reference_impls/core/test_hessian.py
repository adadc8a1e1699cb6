"""A layer as a least-squares problem: weights, inputs and Hessians in matching order."""

import pytest
import torch
from torch import nn

from reference_impls.core.hessian import as_columns, as_matrix, as_weight, dampened, layer_hessians

LAYERS = {
    "linear": (nn.Linear(6, 4), (5, 6)),
    "linear on sequences": (nn.Linear(6, 4), (5, 3, 6)),
    "convolution": (nn.Conv2d(3, 4, (3, 2), stride=2, padding=1, dilation=(1, 2)), (2, 3, 7, 8)),
    "grouped": (nn.Conv2d(4, 6, 3, groups=2), (2, 4, 5, 5)),
    "depthwise": (nn.Conv2d(4, 4, 3, groups=4, padding=1), (2, 4, 5, 5)),
    "padded in a circle": (nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular"), (2, 3, 5, 5)),
    "padded to the same size": (nn.Conv2d(3, 4, 2, padding="same"), (2, 3, 5, 5)),
    "one dimension": (nn.Conv1d(4, 6, 3, stride=2, padding=1, groups=2), (2, 4, 9)),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_matrix_times_columns_is_the_layer(kind):
    layer, shape = LAYERS[kind]
    inputs = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        product = as_columns(layer, inputs) @ as_matrix(layer, layer.weight).mT  # (groups, positions, out / groups)
        expected = layer(inputs) - layer.bias.view(-1, *[1] * (0 if isinstance(layer, nn.Linear) else len(shape) - 2))
    channels_last = expected if isinstance(layer, nn.Linear) else expected.movedim(1, -1)
    groups = getattr(layer, "groups", 1)
    torch.testing.assert_close(product, channels_last.reshape(product.shape[1], groups, -1).movedim(1, 0))


@pytest.mark.parametrize("kind", LAYERS)
def test_the_matrix_turns_back_into_the_weight(kind):
    layer, _ = LAYERS[kind]
    assert torch.equal(as_weight(as_matrix(layer, layer.weight), like=layer.weight), layer.weight)


def test_the_hessian_is_that_of_the_squared_output_error():
    layer, generator = nn.Linear(4, 3).double(), torch.Generator().manual_seed(0)
    batches = [torch.randn(5, 4, generator=generator).double(), torch.randn(2, 4, generator=generator).double()]
    inputs = torch.cat(batches)
    hessian = torch.autograd.functional.hessian(lambda row: ((inputs @ row) ** 2).sum(), torch.zeros(4).double())
    found = layer_hessians(layer, [((batch,), {}) for batch in batches], [layer])
    torch.testing.assert_close(found[layer][0], hessian)


@pytest.mark.parametrize(
    ("given", "found"), [(torch.bfloat16, torch.float32), (torch.float32, torch.float32), (torch.float64, torch.float64)]
)
def test_half_precision_inputs_are_summed_in_single_precision(given, found):
    layer = nn.Linear(2, 2).to(given)
    assert layer_hessians(layer, [((torch.ones(3, 2, dtype=given),), {})], [layer])[layer].dtype == found


def test_dampening_by_hand():
    # the silent second input gets diagonal 1, so the mean diagonal is (3 + 1 + 5) / 3 = 3, and 0.1 of it is added
    hessian = torch.tensor([[3.0, 0.0, 2.0], [0.0, 0.0, 0.0], [2.0, 0.0, 5.0]])
    expected = torch.tensor([[3.3, 0.0, 2.0], [0.0, 1.3, 0.0], [2.0, 0.0, 5.3]])
    torch.testing.assert_close(dampened(hessian, 0.1), expected)


def test_other_layers_are_refused():
    with pytest.raises(ValueError, match="ConvTranspose2d"):
        as_columns(nn.ConvTranspose2d(2, 2, 2), torch.zeros(1, 2, 3, 3))
