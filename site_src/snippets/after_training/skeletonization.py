import torch
from reference_impls.after_training import skeletonization
from reference_impls.core import counting
from reference_impls.core.training import accuracy, fit
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import lenet_300_100

(inputs, targets), (test_inputs, test_targets) = digits()
train, test = batches(inputs, targets, 64, torch.Generator().manual_seed(0)), batches(test_inputs, test_targets, 360)
model = fit(lenet_300_100(generator=torch.Generator().manual_seed(0)), train, epochs=2)
small = skeletonization.prune(model, train, 0.5, rounds=2, train=lambda network: fit(network, train, epochs=1))
for name, network in (("dense", model), ("half of the hidden units", small)):
    cost = counting.report(network, inputs[:1])
    print(f"{name}: {cost.parameters:,} parameters, {cost.macs:,} MACs, accuracy {accuracy(network, test):.1%}")
