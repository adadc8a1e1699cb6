import torch
from reference_impls.after_training import thinet
from reference_impls.core import counting
from reference_impls.core.training import accuracy, fit
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import convnet

(inputs, targets), (test_inputs, test_targets) = digits()
train, test = batches(inputs, targets, 64, torch.Generator().manual_seed(0)), batches(test_inputs, test_targets, 360)
model = fit(convnet(generator=torch.Generator().manual_seed(0)), train, epochs=2)
small = thinet.prune(model, train, 1 / 3, train=lambda network: fit(network, train, epochs=1))
for name, network in (("dense", model), ("two thirds of the filters", small)):
    cost = counting.report(network, inputs[:1])
    print(f"{name}: {cost.parameters:,} parameters, {cost.macs:,} MACs, accuracy {accuracy(network, test):.1%}")
