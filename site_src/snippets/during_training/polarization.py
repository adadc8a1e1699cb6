import torch
from reference_impls.core import counting
from reference_impls.core.amounts import Strength
from reference_impls.core.training import accuracy, fit
from reference_impls.during_training import polarization
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import convnet

(inputs, targets), (test_inputs, test_targets) = digits()
train, test = batches(inputs, targets, 64, torch.Generator().manual_seed(0)), batches(test_inputs, test_targets, 360)
model = convnet((16, 16, 32, 32), generator=torch.Generator().manual_seed(0))
slim = fit(model, train, 6, polarization.callbacks(model, Strength(0.01)))
for network in (model, slim):
    print(counting.report(network, inputs[:1]), f"accuracy {accuracy(network, test):.1%}")
