import torch

from reference_impls.before_training import snip, snip_it
from reference_impls.core.training import HoldMasks, accuracy, fit
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import lenet_300_100

train, test = digits()
data = batches(*train, 64)
print("sparsity after each round:", ", ".join(f"{now:.1%}" for now in snip_it.sparsities(0.995, 5)))
for name, method in {"one cut (SNIP)": snip, "rounds (SNIP-it)": snip_it}.items():
    model = lenet_300_100(generator=torch.Generator().manual_seed(0))
    masks = method.masks(model, data[:6], 0.995)
    print(f"{name}: accuracy after training {accuracy(fit(model, data, 6, [HoldMasks(masks)]), [test]):.1%}")
