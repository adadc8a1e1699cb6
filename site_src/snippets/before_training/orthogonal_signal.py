import torch

from reference_impls.before_training import orthogonal_signal
from reference_impls.core.training import accuracy, fit
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import mlp

train, test = digits()
data = batches(*train, 64)
model = mlp([64] * 10 + [10], generator=torch.Generator().manual_seed(0))
for steps in (0, 200):
    options = {"steps": steps, "generator": torch.Generator().manual_seed(0)}
    network = orthogonal_signal.prune(model, data, 0.9, train=lambda net, callbacks: fit(net, data, 4, callbacks), **options)
    print(f"ten layers at 90% sparsity, {steps} isometry steps: accuracy after training {accuracy(network, [test]):.1%}")
