import torch

from reference_impls.core.training import accuracy, fit
from reference_impls.during_training import deep_rewiring
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import lenet_300_100

train, test = digits()
data, draw = batches(*train, 64), torch.Generator().manual_seed(0)
model = lenet_300_100(generator=draw)
[rewiring] = deep_rewiring.callbacks(model, 0.98, steps=15 * len(data), l1=1e-3, generator=draw)
first = rewiring.masks["1.weight"]
fit(model, data, 15, [rewiring])
kept = (first & rewiring.masks["1.weight"]).sum() / first.sum()
print(f"accuracy {accuracy(model, [test]):.1%} with 2% of the weights; {kept:.0%} of the first layer's are where they began")
