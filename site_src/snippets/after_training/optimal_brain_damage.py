import torch

from reference_impls.after_training.optimal_brain_damage import prune, saliency
from reference_impls.core.training import accuracy, fit
from reference_impls.zoo import data, networks

generator = torch.Generator().manual_seed(0)
(inputs, targets), test = data.digits()
batches = data.batches(inputs, targets, 64, generator)
model = fit(networks.lenet_300_100(generator=generator), batches, 10)
for name, scores in saliency(model, batches).items():
    print(f"{name}: deleting a weight raises the loss by {scores.median():.1e} (median), {scores.max():.1e} (most)")
pruned = prune(model, batches, 0.95, train=lambda network, callbacks: fit(network, batches, 5, callbacks))
print(f"accuracy {accuracy(model, [test]):.1%} before, {accuracy(pruned, [test]):.1%} with 5 % of the weights")
