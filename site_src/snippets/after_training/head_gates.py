import torch
from reference_impls.after_training import head_gates
from reference_impls.core.amounts import Strength
from reference_impls.core.training import accuracy, fit
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import vit_small

train, test = digits()
data, generator = batches(*train, 64, torch.Generator().manual_seed(0)), torch.Generator().manual_seed(0)
model = fit(vit_small(heads=8, patch=4, generator=generator), data, 6, optimizer=lambda weights: torch.optim.Adam(weights, 0.003))
print(f"8 and 8 heads: accuracy {accuracy(model, [test]):.1%}")
gates = head_gates.callbacks(model, Strength(0.1), learning_rate=0.1, generator=generator)
small = fit(model, data, 8, gates, optimizer=lambda weights: torch.optim.Adam(weights, 0.003))
print(f"{' and '.join(str(block.attention.heads) for block in small.blocks)} heads: accuracy {accuracy(small, [test]):.1%}")
