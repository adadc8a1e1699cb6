from functools import partial
import torch
from reference_impls.after_training import resrep
from reference_impls.core import counting, training
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import convnet

(inputs, targets), (test_inputs, test_targets) = digits()
train, test = batches(inputs, targets, 64, torch.Generator().manual_seed(0)), batches(test_inputs, test_targets, 360)
optimizer = partial(training.momentum_sgd, learning_rate=0.03)
model = training.fit(convnet((16, 16, 32, 32), generator=torch.Generator().manual_seed(0)), train, 2, optimizer=optimizer)
print(counting.report(model, inputs[:1]), f"accuracy {training.accuracy(model, test):.1%}")
compactors = resrep.callbacks(model, 0.4, steps=10 * len(train), strength=0.01)
small = training.fit(model, train, 10, compactors, optimizer=optimizer)
print(counting.report(small, inputs[:1]), f"accuracy {training.accuracy(small, test):.1%}")
