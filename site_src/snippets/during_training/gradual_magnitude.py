import torch

from reference_impls.core.training import accuracy, fit
from reference_impls.during_training import gradual_magnitude
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import lenet_300_100

train, test = digits()
data = batches(*train, 64)
for amount in (0.0, 0.9, 0.98):
    model = lenet_300_100(generator=torch.Generator().manual_seed(0))
    fit(model, data, 10, gradual_magnitude.callbacks(model, amount, steps=10 * len(data)))
    print(f"sparsity {amount:.0%}: accuracy {accuracy(model, [test]):.1%}")
