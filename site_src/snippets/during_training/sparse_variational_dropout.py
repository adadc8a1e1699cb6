import torch
from reference_impls.core import counting
from reference_impls.core.amounts import Strength
from reference_impls.core.training import accuracy, fit
from reference_impls.during_training import sparse_variational_dropout
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import mlp

train, test = digits()
data = batches(*train, 64)
for factor in (0.0, 1.0):
    model, noise = mlp((64, 200, 10), generator=torch.Generator().manual_seed(0)), torch.Generator().manual_seed(0)
    dropout = sparse_variational_dropout.callbacks(model, Strength(factor / len(train[0])), generator=noise)
    fit(model, data, 15, dropout, optimizer=lambda parameters: torch.optim.Adam(parameters, lr=0.02))
    print(f"{factor} x the divergence: {counting.weight_sparsity(model):.1%} are zero, accuracy {accuracy(model, [test]):.1%}")
