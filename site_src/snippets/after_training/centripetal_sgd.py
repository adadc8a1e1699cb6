from functools import partial
import torch
from reference_impls.after_training import centripetal_sgd
from reference_impls.core import counting, training
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import convnet

(inputs, targets), (test_inputs, test_targets) = digits()
train, test = batches(inputs, targets, 64, torch.Generator().manual_seed(0)), batches(test_inputs, test_targets, 360)
optimizer = partial(training.momentum_sgd, learning_rate=0.02)
model = training.fit(convnet(generator=torch.Generator().manual_seed(0)), train, 3, optimizer=optimizer)
print(counting.report(model, inputs[:1]), f"accuracy {training.accuracy(model, test):.1%}")
small = training.fit(model, train, 8, centripetal_sgd.callbacks(model, 0.5, strength=2.0), optimizer=optimizer)
print(f"before the cut {training.accuracy(model, test):.1%}, after it {training.accuracy(small, test):.1%}")
print(counting.report(small, inputs[:1]))
