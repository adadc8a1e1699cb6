import torch

from reference_impls.after_training.optimal_brain_surgeon import prune
from reference_impls.core.masks import apply_masks, prunable_weights
from reference_impls.core.training import accuracy, fit
from reference_impls.zoo import data, networks

generator = torch.Generator().manual_seed(0)
(inputs, targets), test = data.digits()
batches = data.batches(inputs, targets, 64, generator)
model = fit(networks.mlp([64, 8, 10], generator=generator), batches, 15)
pruned = prune(model, batches[:6], 0.4)
print(f"accuracy {accuracy(model, [test]):.1%} before, {accuracy(pruned, [test]):.1%} with 60 % of the weights, not retrained")
apply_masks(model, {name: weight != 0 for name, weight in prunable_weights(pruned).items()})
print(f"the same weights deleted, the others not moved: {accuracy(model, [test]):.1%}")
