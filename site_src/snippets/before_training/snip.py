import torch

from reference_impls.before_training import snip
from reference_impls.core.masks import sparsity_of
from reference_impls.core.training import HoldMasks, accuracy, fit
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import lenet_300_100

train, test = digits()
data = batches(*train, 64)
model = lenet_300_100(generator=torch.Generator().manual_seed(0))
masks = snip.masks(model, data, 0.95)
print(f"pruned before training: {sparsity_of(masks):.1%} of the weights")
print(f"accuracy after training: {accuracy(fit(model, data, 5, [HoldMasks(masks)]), [test]):.1%}")
