import torch
from reference_impls.core import counting
from reference_impls.core.amounts import Strength
from reference_impls.core.training import accuracy, fit
from reference_impls.run_time import runtime_neural_pruning
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import convnet

(inputs, targets), (test_inputs, test_targets) = digits()
train, test = batches(inputs, targets, 64, torch.Generator().manual_seed(0)), batches(test_inputs, test_targets, 360)
model = fit(convnet(generator=torch.Generator().manual_seed(0)), train, 3)
pruning = runtime_neural_pruning.wrap(model, Strength(0.02), exploration=0.3, generator=torch.Generator().manual_seed(0))
spent = fit(pruning, train, 5, loss=pruning.loss).macs(test_inputs).float()
print(f"dense: {counting.macs(model, inputs[:1]):,} MACs, accuracy {accuracy(model, test):.1%}")
print(f"with the agent: {spent.min():,.0f} to {spent.max():,.0f} MACs an image, accuracy {accuracy(pruning, test):.1%}")
