import torch

from reference_impls.core.counting import weight_sparsity
from reference_impls.core.training import accuracy, fit
from reference_impls.fusion import optimal_brain_compression
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import mlp

train, test = digits()
data = batches(*train, 64)
model = fit(mlp([64, 32, 32, 10], generator=torch.Generator().manual_seed(0)), data, 10)
print(f"dense: accuracy {accuracy(model, [test]):.1%}")
for amount, bits in ((0.6, None), (0.0, 3), (0.5, 4)):
    small = optimal_brain_compression.prune(model, data[:8], amount, bits=bits)
    print(f"{weight_sparsity(small):.0%} zeros, {bits or 32} bits: accuracy {accuracy(small, [test]):.1%}")
