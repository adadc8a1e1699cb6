import torch
from reference_impls.after_training import lamp
from reference_impls.core.masks import sparsity_of
from reference_impls.core.training import HoldMasks, accuracy, fit
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import lenet_300_100

(inputs, targets), (test_inputs, test_targets) = digits()
train, test = batches(inputs, targets, 64, torch.Generator().manual_seed(0)), batches(test_inputs, test_targets, 360)
model = fit(lenet_300_100(generator=torch.Generator().manual_seed(0)), train, epochs=3)
print(f"dense: accuracy {accuracy(model, test):.1%}")
masks = lamp.masks(model, train, 0.97)
pruned = fit(model, train, 3, [HoldMasks(masks)])
print(f"sparsity {sparsity_of(masks):.1%}, retrained: accuracy {accuracy(pruned, test):.1%}")
print("left of each layer:", ", ".join(f"{mask.float().mean():.1%}" for mask in masks.values()))
