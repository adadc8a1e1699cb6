import torch

from reference_impls.core import counting
from reference_impls.core.training import accuracy, fit
from reference_impls.during_training import geometric_median
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import resnet8

train, test = digits()
data = batches(*train, 64)
model = fit(resnet8(generator=torch.Generator().manual_seed(0)), data, 4)
print(f"trained: {counting.parameters(model)} parameters, accuracy {accuracy(model, [test]):.1%}")
small = fit(model, data, 4, geometric_median.callbacks(model, 0.5))
print(f"half of the filters gone: {counting.parameters(small)} parameters, accuracy {accuracy(small, [test]):.1%}")
