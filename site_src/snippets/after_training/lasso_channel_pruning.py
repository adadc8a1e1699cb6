import torch

from reference_impls.after_training import lasso_channel_pruning
from reference_impls.core import counting
from reference_impls.core.training import accuracy, fit
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import convnet

train, test = digits()
data = batches(*train, 64)
model = fit(convnet(generator=torch.Generator().manual_seed(0)), data, 6)
small = lasso_channel_pruning.prune(model, data, 0.5)
for name, network in (("before", model), ("half of the channels gone, nothing trained", small)):
    print(f"{name}: {counting.report(network, train[0][:1])}, accuracy {accuracy(network, [test]):.1%}")
