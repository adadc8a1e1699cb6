import torch
from reference_impls.core import counting
from reference_impls.core.training import accuracy, fit
from reference_impls.during_training import structured_sparsity_learning
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import mlp

(inputs, targets), (test_inputs, test_targets) = digits()
train, test = batches(inputs, targets, 64, torch.Generator().manual_seed(0)), batches(test_inputs, test_targets, 360)
model = mlp((64, 300, 100, 10), generator=torch.Generator().manual_seed(0))
lasso = structured_sparsity_learning.callbacks(model, 0.8, filters=0.003, channels=0.003)
slim = fit(model, train, 12, lasso)
for network in (model, slim):
    print(counting.report(network, inputs[:1]), f"accuracy {accuracy(network, test):.1%}")
