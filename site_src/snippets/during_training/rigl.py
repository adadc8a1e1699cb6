import torch

from reference_impls.core.training import accuracy, fit
from reference_impls.during_training import rigl
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import lenet_300_100

train, test = digits()
data = batches(*train, 64)
for name, fraction in (("static", 0.0), ("RigL", 0.3)):
    draw = torch.Generator().manual_seed(0)
    model = lenet_300_100(generator=draw)
    fit(model, data, 10, rigl.callbacks(model, 0.98, steps=10 * len(data), every=5, fraction=fraction, generator=draw))
    print(f"{name}: accuracy {accuracy(model, [test]):.1%} with 2% of the weights")
