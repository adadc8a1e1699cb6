import torch
from reference_impls.after_training import growing_regularization
from reference_impls.core import counting
from reference_impls.core.training import accuracy, fit
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import convnet

(inputs, targets), (test_inputs, test_targets) = digits()
train, test = batches(inputs, targets, 64, torch.Generator().manual_seed(0)), batches(test_inputs, test_targets, 360)
model = fit(convnet(generator=torch.Generator().manual_seed(0)), train, 3)
print(counting.report(model, inputs[:1]), f"accuracy {accuracy(model, test):.1%}")
small = fit(model, train, 4, growing_regularization.callbacks(model, 0.5, steps=4 * len(train)))
small = fit(small, train, 2)
print(counting.report(small, inputs[:1]), f"accuracy {accuracy(small, test):.1%}")
