import torch
from reference_impls.core import counting
from reference_impls.core.amounts import Strength
from reference_impls.core.training import accuracy, fit
from reference_impls.during_training import hard_concrete
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import mlp

train, test = digits()
data = batches(*train, 64)
for price in (0.0, 3e-4, 3e-3):
    model, noise = mlp((64, 60, 10), generator=torch.Generator().manual_seed(0)), torch.Generator().manual_seed(0)
    gating = hard_concrete.callbacks(model, Strength(price), generator=noise)
    fit(model, data, 20, gating, optimizer=lambda parameters: torch.optim.Adam(parameters, lr=0.02))
    print(f"a weight costs {price}: {counting.weight_sparsity(model):.1%} are zero, accuracy {accuracy(model, [test]):.1%}")
