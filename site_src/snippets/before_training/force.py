import torch

from reference_impls.before_training import force
from reference_impls.core.training import HoldMasks, accuracy, fit
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import lenet_300_100

train, test = digits()
data = batches(*train, 64)
for name, options in {"one cut": {"rounds": 1}, "Iterative SNIP": {"resurrect": False}, "FORCE": {}}.items():
    model = lenet_300_100(generator=torch.Generator().manual_seed(0))
    masks = force.masks(model, data[:6], 0.99, **options)
    print(f"{name}: accuracy at 99% sparsity {accuracy(fit(model, data, 5, [HoldMasks(masks)]), [test]):.1%}")
