import torch

from reference_impls.after_training import network_trimming
from reference_impls.core import counting
from reference_impls.core.training import accuracy, fit
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import lenet_300_100

train, test = digits()
data = batches(*train, 64)
model = fit(lenet_300_100(generator=torch.Generator().manual_seed(0)), data, 6)
small = network_trimming.prune(model, data, 0.7, train=lambda network: fit(network, data, 2))
for name, network in (("before", model), ("70% of the neurons gone", small)):
    print(f"{name}: {counting.parameters(network)} parameters, accuracy {accuracy(network, [test]):.1%}")
