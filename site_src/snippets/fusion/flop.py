import torch
from reference_impls.core import counting
from reference_impls.core.training import accuracy, fit
from reference_impls.fusion import flop
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import mlp

train, test = digits()
data = batches(*train, 64, torch.Generator().manual_seed(0))
model = mlp((64, 128, 64, 10), generator=torch.Generator().manual_seed(0))
print(f"dense: {counting.parameters(model):,} parameters")
gates = flop.callbacks(model, 0.8, steps=20 * len(data), climb=0.1, gate_rate=0.03, dropout_rate=0.1)
small = fit(model, data, 20, gates, optimizer=lambda weights: torch.optim.Adam(weights, 0.003))
ranks = [layer[0].out_features for layer in small[1::2]]
print(f"ranks {ranks}: {counting.parameters(small):,} parameters, accuracy {accuracy(small, [test]):.1%}")
