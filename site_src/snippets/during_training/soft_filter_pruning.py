import torch

from reference_impls.core import counting
from reference_impls.core.training import accuracy, fit
from reference_impls.during_training import soft_filter_pruning
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import resnet8

train, test = digits()
model = resnet8(generator=torch.Generator().manual_seed(0))
print(f"before: {counting.parameters(model)} parameters")
small = fit(model, batches(*train, 64), 8, soft_filter_pruning.callbacks(model, 0.5))
print(f"trained and pruned: {counting.parameters(small)} parameters, accuracy {accuracy(small, [test]):.1%}")
