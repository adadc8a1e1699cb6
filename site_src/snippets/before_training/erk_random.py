import torch

from reference_impls.before_training import erk_random
from reference_impls.core.training import HoldMasks, accuracy, fit
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import mlp

train, test = digits()
data = batches(*train, 64)
for width in (32, 256):
    model = mlp([64, width, width, 10], generator=torch.Generator().manual_seed(0))
    masks = erk_random.masks(model, data, 0.95, generator=torch.Generator().manual_seed(0))
    kept = ", ".join(f"{mask.float().mean():.1%}" for mask in masks.values())
    print(f"width {width}: kept {kept}; accuracy after training {accuracy(fit(model, data, 5, [HoldMasks(masks)]), [test]):.1%}")
