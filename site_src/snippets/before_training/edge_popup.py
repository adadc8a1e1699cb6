import torch

from reference_impls.before_training import edge_popup
from reference_impls.core.training import accuracy, fit
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import mlp

train, test = digits()
data = batches(*train, 64)
for width in (16, 256):
    dense, hidden = (mlp([64, width, width, 10], generator=torch.Generator().manual_seed(0)) for _ in range(2))
    reached = accuracy(fit(dense, data, 4), [test])
    popups = edge_popup.callbacks(hidden, 0.5, steps=0, generator=torch.Generator().manual_seed(0))
    found = accuracy(fit(hidden, data, 4, popups), [test])
    print(f"width {width}: trained dense {reached:.1%}, half of the untrained random weights {found:.1%}")
