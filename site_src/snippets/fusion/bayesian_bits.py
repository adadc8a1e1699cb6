import torch
from reference_impls.core.amounts import Strength
from reference_impls.core.training import accuracy, fit
from reference_impls.fusion import bayesian_bits
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import mlp

train, test = digits()
data, generator = batches(*train, 64), torch.Generator().manual_seed(0)
for price in (0.003, 3.0):
    model = fit(mlp((64, 100, 60, 10), generator=generator), data, 3)
    bits = bayesian_bits.callbacks(model, Strength(price), gate_rate=0.05, generator=generator)
    fit(model, data, 12, bits, optimizer=lambda weights: torch.optim.Adam(weights, 0.003))
    widths = [int((layer.weight != 0).any(1).sum()) for layer in model[1::2]]
    print(f"price {price}: bits {list(bits[0].bits().values())}, neurons {widths}, accuracy {accuracy(model, [test]):.1%}")
