import torch

from reference_impls.core import counting
from reference_impls.core.training import accuracy, fit
from reference_impls.during_training import global_sparse_momentum
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import lenet_300_100

train, test = digits()
data = batches(*train, 64)
model = fit(lenet_300_100(generator=torch.Generator().manual_seed(0)), data, 4)
print(f"trained: accuracy {accuracy(model, [test]):.1%}")
sparse = global_sparse_momentum.callbacks(model, 0.98, decay=0.01)
model = fit(model, data, 30, sparse, optimizer=lambda p: torch.optim.SGD(p, 0.02, momentum=0.98))
print(f"{counting.weight_sparsity(model):.0%} of the weights are zero: accuracy {accuracy(model, [test]):.1%}")
