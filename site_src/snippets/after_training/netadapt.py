import torch

from reference_impls.after_training import netadapt
from reference_impls.core.amounts import Budget
from reference_impls.core.counting import macs
from reference_impls.core.training import accuracy, fit
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import convnet

train, test = digits()
data, example = batches(*train, 64), test[0][:1]
model = fit(convnet(generator=torch.Generator().manual_seed(0)), data, 3)
adapt, look = lambda network: fit(network, data[:4], 1), lambda network: accuracy(network, data[-4:])
small = netadapt.prune(model, data, Budget(macs=0.5 * macs(model, example)), evaluate=look, adapt=adapt, train=adapt, first=0.2)
print(f"{macs(model, example)} to {macs(small, example)} MACs: accuracy {accuracy(model, [test]):.1%} to {accuracy(small, [test]):.1%}")
