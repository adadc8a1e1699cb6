import torch

from reference_impls.core.training import accuracy, fit
from reference_impls.during_training import sparse_momentum
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import lenet_300_100

train, test = digits()
data, draw = batches(*train, 64), torch.Generator().manual_seed(0)
model = lenet_300_100(generator=draw)
[reallocation] = sparse_momentum.callbacks(model, 0.985, steps=15 * len(data), generator=draw)
fit(model, data, 15, [reallocation])
for name, mask in reallocation.masks.items():
    print(f"{name}: {mask.float().mean():.1%} of {mask.numel()} weights")
print(f"accuracy {accuracy(model, [test]):.1%}")
