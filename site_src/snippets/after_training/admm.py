import torch
from reference_impls.after_training import admm
from reference_impls.core import counting
from reference_impls.core.training import accuracy, fit
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import mlp

train, test = digits()
data = batches(*train, 64)
model = fit(mlp((64, 60, 10), generator=torch.Generator().manual_seed(0)), data, 6)
print(f"dense: accuracy {accuracy(model, [test]):.1%}")
for iterations in (1, 6):
    sparse = admm.prune(model, data, 0.95, train=lambda network, pull: fit(network, data, 2, pull), iterations=iterations, rho=0.1)
    print(f"{iterations} iterations: {counting.weight_sparsity(sparse):.1%} zeros, accuracy {accuracy(sparse, [test]):.1%}")
