import torch

from reference_impls.after_training import platon
from reference_impls.core.masks import sparsity_of
from reference_impls.core.training import accuracy, fit
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import lenet_300_100

train, test = digits()
data, adam = batches(*train, 64), lambda parameters: torch.optim.Adam(parameters, 1e-3)
model = fit(lenet_300_100(generator=torch.Generator().manual_seed(0)), data, 5, optimizer=adam)
print(f"dense: accuracy {accuracy(model, [test]):.1%}")
[keeper] = platon.callbacks(model, 0.95, steps=10 * len(data))
fit(model, data, 10, [keeper], optimizer=adam)
print(f"sparsity {sparsity_of(keeper.masks):.1%}: accuracy {accuracy(model, [test]):.1%}")
