import torch

from reference_impls.before_training import grasp
from reference_impls.core.training import HoldMasks, accuracy, fit
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import lenet_300_100

train, test = digits()
data = batches(*train, 64)
model = lenet_300_100(generator=torch.Generator().manual_seed(0))
masks = grasp.masks(model, data, 0.9)
print({name: f"{mask.float().mean():.1%} kept" for name, mask in masks.items()})
print(f"accuracy after training: {accuracy(fit(model, data, 5, [HoldMasks(masks)]), [test]):.1%}")
