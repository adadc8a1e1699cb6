import numpy as np
import torch

from reference_impls.before_training import expander
from reference_impls.core.training import HoldMasks, accuracy, fit
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import mlp

train, test = digits()
data = batches(*train, 64)
model = mlp([64, 128, 10], generator=torch.Generator().manual_seed(0))
masks = expander.masks(model, data, 0.9, generator=torch.Generator().manual_seed(0))
for name, mask in masks.items():
    print(f"{name}: degrees {np.unique(mask.sum(1))}, expansion {expander.expansion(mask.numpy(), np.random.default_rng(0)):.2f}")
print(f"accuracy after training: {accuracy(fit(model, data, 5, [HoldMasks(masks)]), [test]):.1%}")
