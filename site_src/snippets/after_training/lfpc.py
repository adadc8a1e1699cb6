import torch

from reference_impls.after_training import lfpc
from reference_impls.core.training import accuracy, fit
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import convnet

train, test = digits()
model = fit(convnet(generator=torch.Generator().manual_seed(0)), batches(*train, 64), 3)
held_out = batches(*test, 60)
small = lfpc.prune(model, held_out, 0.3, steps=40, train=lambda network: fit(network, batches(*train, 64), 1))
for name, network in (("dense", model), ("pruned", small)):
    print(f"{name}: {sum(p.numel() for p in network.parameters())} parameters, accuracy {accuracy(network, [test]):.1%}")
