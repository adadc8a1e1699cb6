import torch

from reference_impls.before_training import single_shot_structured
from reference_impls.core import counting
from reference_impls.core.amounts import Budget
from reference_impls.core.training import accuracy, fit
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import convnet

(inputs, targets), test = digits()
data = batches(inputs, targets, 64)
dense = convnet(generator=torch.Generator().manual_seed(0))
small = single_shot_structured.prune(dense, data, Budget(macs=0.2 * counting.macs(dense, inputs[:1])))
for name, network in (("dense", dense), ("3SP", small)):
    print(f"{name}: {counting.macs(network, inputs[:1]):,} MACs, accuracy {accuracy(fit(network, data, 3), [test]):.1%}")
