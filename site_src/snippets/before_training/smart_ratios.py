import torch

from reference_impls.before_training import smart_ratios
from reference_impls.core.training import HoldMasks, accuracy, fit
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import resnet8

train, test = digits()
data = batches(*train, 64)
model = resnet8(generator=torch.Generator().manual_seed(0))
masks = smart_ratios.masks(model, data, 0.9, generator=torch.Generator().manual_seed(0))
print("kept from the first layer to the last:", ", ".join(f"{mask.float().mean():.0%}" for mask in masks.values()))
print(f"accuracy after training: {accuracy(fit(model, data, 4, [HoldMasks(masks)]), [test]):.1%}")
