import torch

from reference_impls.after_training import sparsegpt
from reference_impls.core.masks import apply_masks, prunable_weights
from reference_impls.core.training import accuracy, fit
from reference_impls.zoo import data, networks

generator = torch.Generator().manual_seed(0)
batches = data.batches(*data.sequences(256, 24, 64, generator), 32)
model = fit(networks.gpt_small(generator=generator), batches, 8, optimizer=lambda p: torch.optim.Adam(p, 3e-3))
pruned = sparsegpt.prune(model, batches, 0.6)
print(f"next token foretold: {accuracy(model, batches):.1%} by the dense network")
print(f"{accuracy(pruned, batches):.1%} with 40 % of the weights in its blocks, not retrained")
apply_masks(model, {name: weight != 0 for name, weight in prunable_weights(pruned).items()})
print(f"{accuracy(model, batches):.1%} with the same weights gone and the others not updated")
