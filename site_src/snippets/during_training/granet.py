import torch

from reference_impls.core.training import accuracy, fit
from reference_impls.during_training import granet
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import lenet_300_100

train, test = digits()
data = batches(*train, 64)
for name, fraction in (("gradual pruning", 0.0), ("with regeneration", 0.5)):
    draw = torch.Generator().manual_seed(0)
    model = lenet_300_100(generator=draw)
    fit(model, data, 15, granet.callbacks(model, 0.998, steps=15 * len(data), every=10, fraction=fraction, generator=draw))
    print(f"{name}: accuracy {accuracy(model, [test]):.1%} with 0.2% of the weights")
