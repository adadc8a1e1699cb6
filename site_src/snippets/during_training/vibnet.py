import torch
from reference_impls.core.amounts import Strength
from reference_impls.core.training import accuracy, fit
from reference_impls.during_training import vibnet
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import mlp

train, test = digits()
data = batches(*train, 64)
for price in (1e-4, 1e-2):
    model, noise = mlp((64, 100, 50, 10), generator=torch.Generator().manual_seed(0)), torch.Generator().manual_seed(0)
    bottleneck = vibnet.callbacks(model, Strength(price), generator=noise)
    small = fit(model, data, 15, bottleneck, optimizer=lambda parameters: torch.optim.Adam(parameters, lr=0.01))
    print(f"price {price}: neurons {[layer.in_features for layer in small[1::2]]}, accuracy {accuracy(small, [test]):.1%}")
