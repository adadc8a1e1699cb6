import torch
from reference_impls.core import counting
from reference_impls.core.training import accuracy, fit
from reference_impls.during_training import network_slimming
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import convnet

(inputs, targets), (test_inputs, test_targets) = digits()
train, test = batches(inputs, targets, 64, torch.Generator().manual_seed(0)), batches(test_inputs, test_targets, 360)
model = convnet((16, 16, 32, 32), generator=torch.Generator().manual_seed(0))
slim = fit(model, train, 6, network_slimming.callbacks(model, 0.5, strength=0.01))
for network in (model, slim):
    print(counting.report(network, inputs[:1]), f"accuracy {accuracy(network, test):.1%}")
print(f"after fine-tuning: {accuracy(fit(slim, train, 2), test):.1%}")
