from functools import partial
import torch
from reference_impls.after_training import depgraph
from reference_impls.core import counting, training
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import resnet8

(inputs, targets), (test_inputs, test_targets) = digits()
train, test = batches(inputs, targets, 64, torch.Generator().manual_seed(0)), batches(test_inputs, test_targets, 360)
fit = partial(training.fit, batches=train, optimizer=partial(training.momentum_sgd, learning_rate=0.05))
model = fit(resnet8(generator=torch.Generator().manual_seed(0)), epochs=3)
small = depgraph.prune(model, train, 0.5, train=lambda network, callbacks=(): fit(network, epochs=3, callbacks=callbacks), strength=0.01)
for network in (model, small):
    print(counting.report(network, inputs[:1]), f"accuracy {training.accuracy(network, test):.1%}")
