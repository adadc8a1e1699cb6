import torch

from reference_impls.after_training.magnitude_retraining import prune
from reference_impls.core.masks import prunable_weights
from reference_impls.core.training import accuracy, fit
from reference_impls.zoo import data, networks

generator = torch.Generator().manual_seed(0)
(inputs, targets), test = data.digits()
batches = data.batches(inputs, targets, 64, generator)
model = fit(networks.lenet_300_100(generator=generator), batches, 10)
pruned = prune(model, batches, 0.95, train=lambda network, callbacks: fit(network, batches, 5, callbacks))
for name, weight in prunable_weights(pruned).items():
    print(f"{name}: {int((weight != 0).sum())} of {weight.numel()} connections are left")
print(f"accuracy {accuracy(model, [test]):.1%} before, {accuracy(pruned, [test]):.1%} after")
