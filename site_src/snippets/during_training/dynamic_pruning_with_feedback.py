import torch

from reference_impls.core import counting
from reference_impls.core.training import accuracy, fit
from reference_impls.during_training import dynamic_pruning_with_feedback
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import lenet_300_100

train, test = digits()
data = batches(*train, 64)
model = lenet_300_100(generator=torch.Generator().manual_seed(0))
[feedback] = dynamic_pruning_with_feedback.callbacks(model, 0.95, steps=10 * len(data))
fit(model, data, 10, [feedback])
print(f"{counting.weight_sparsity(model):.0%} of the weights are zero after one pass: accuracy {accuracy(model, [test]):.1%}")
