import torch
from reference_impls.core import counting
from reference_impls.core.amounts import Strength
from reference_impls.core.training import accuracy, fit
from reference_impls.during_training import only_train_once
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import mlp

(inputs, targets), (test_inputs, test_targets) = digits()
train, test = batches(inputs, targets, 64, torch.Generator().manual_seed(0)), batches(test_inputs, test_targets, 360)
model = mlp((64, 300, 100, 10), generator=torch.Generator().manual_seed(0))
half_space = only_train_once.callbacks(model, Strength(0.005), steps=12 * len(train), epsilon=0.9)
small = fit(model, train, 12, half_space)
for network in (model, small):
    print(counting.report(network, inputs[:1]), f"accuracy {accuracy(network, test):.1%}")
