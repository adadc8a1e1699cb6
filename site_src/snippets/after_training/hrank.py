import torch

from reference_impls.after_training import hrank
from reference_impls.core import counting
from reference_impls.core.training import accuracy, fit
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import convnet

train, test = digits()
data = batches(*train, 64)
model = fit(convnet(generator=torch.Generator().manual_seed(0)), data, 6)
small = hrank.prune(model, data[:5], 0.5, train=lambda network: fit(network, data, 3))
for name, network in (("before", model), ("half of the filters gone", small)):
    print(f"{name}: {counting.parameters(network)} parameters, accuracy {accuracy(network, [test]):.1%}")
