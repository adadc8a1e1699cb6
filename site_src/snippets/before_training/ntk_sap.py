import torch

from reference_impls.before_training import ntk_sap
from reference_impls.core.training import HoldMasks, accuracy, fit
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import lenet_300_100

train, test = digits()
data = batches(*train, 64)
model = lenet_300_100(generator=torch.Generator().manual_seed(0))
noise = [(torch.empty(64, 64), torch.empty(0))]  # only the shape is read
masks = ntk_sap.masks(model, noise, 0.95, generator=torch.Generator().manual_seed(0))
print("kept:", ", ".join(f"{name} {mask.float().mean():.1%}" for name, mask in masks.items()))
print(f"accuracy after training: {accuracy(fit(model, data, 5, [HoldMasks(masks)]), [test]):.1%}")
