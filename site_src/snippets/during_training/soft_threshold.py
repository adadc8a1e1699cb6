import torch

from reference_impls.core.amounts import Strength
from reference_impls.core.training import accuracy, fit
from reference_impls.during_training import soft_threshold
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import lenet_300_100

train, test = digits()
model = lenet_300_100(generator=torch.Generator().manual_seed(0))
[learned] = soft_threshold.callbacks(model, Strength(0.03))
fit(model, batches(*train, 64), 15, [learned])
for name, mask in learned.masks.items():
    print(f"{name}: threshold {learned.thresholds[name].sigmoid().item():.3f}, density {mask.float().mean():.1%}")
print(f"accuracy {accuracy(model, [test]):.1%}")
