import torch

from reference_impls.after_training import graph_pruning
from reference_impls.core.amounts import Budget
from reference_impls.core.counting import macs
from reference_impls.core.training import accuracy, fit
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import convnet

train, test = digits()
model, data = convnet(generator=torch.Generator().manual_seed(0)), batches(*train, 64)
options = {"train": lambda network: fit(network, data, 2), "evaluate": lambda network: accuracy(network, [test])}
dense = macs(model, test[0][:1])
small = graph_pruning.prune(model, data, Budget(macs=0.5 * dense), **options, episodes=6, warmup=3, hidden=8)
print(f"{macs(small, test[0][:1]) / dense:.0%} of the operations, accuracy {accuracy(small, [test]):.1%}")
