import torch

from reference_impls.after_training import layerwise_optimal_brain_surgeon as lobs
from reference_impls.core.counting import weight_sparsity
from reference_impls.core.training import accuracy, fit
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import mlp

train_on, test = digits()
data = batches(*train_on, 64)
model = fit(mlp([64, 32, 32, 10], generator=torch.Generator().manual_seed(0)), data, 10)
print(f"dense: accuracy {accuracy(model, [test]):.1%}")
for name, train in (("as it is", None), ("retrained for two epochs", lambda network, callbacks: fit(network, data, 2, callbacks))):
    pruned = lobs.prune(model, data, 0.8, train=train, alpha=1e-2)
    print(f"{weight_sparsity(pruned):.0%} zeros, {name}: accuracy {accuracy(pruned, [test]):.1%}")
