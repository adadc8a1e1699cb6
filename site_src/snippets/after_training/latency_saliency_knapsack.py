from functools import partial
import torch
from reference_impls.after_training import latency_saliency_knapsack
from reference_impls.core import counting, training
from reference_impls.core.amounts import Budget
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import resnet8

(inputs, targets), (test_inputs, test_targets) = digits()
data, test = batches(inputs, targets, 64, torch.Generator().manual_seed(0)), batches(test_inputs, test_targets, 360)
fit = partial(training.fit, batches=data, optimizer=partial(training.momentum_sgd, learning_rate=0.03))
model = fit(resnet8(generator=torch.Generator().manual_seed(0)), epochs=3)
small = latency_saliency_knapsack.prune(model, data[:6], Budget(macs=60000), rounds=4, train=partial(fit, epochs=1))
for network in (model, small):
    print(counting.report(network, inputs[:1]), f"accuracy {training.accuracy(network, test):.1%}")
