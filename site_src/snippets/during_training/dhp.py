import torch
from reference_impls.core import counting
from reference_impls.core.amounts import Budget
from reference_impls.core.training import accuracy, fit, momentum_sgd
from reference_impls.during_training import dhp
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import convnet

(inputs, targets), test = digits()
train, model = batches(inputs, targets, 64), convnet((16, 16, 16, 32), generator=torch.Generator().manual_seed(0))
half = Budget(macs=0.5 * counting.macs(model, inputs[:1]))
learn = lambda network, callbacks=(): fit(network, train, 8, callbacks, optimizer=lambda weights: momentum_sgd(weights, 0.05))
small = dhp.prune(model, train, half, train=learn, strength=0.05, least=2, generator=torch.Generator().manual_seed(0))
print("widths", [layer.out_channels for layer in small.features if hasattr(layer, "out_channels")])
print(counting.report(small, inputs[:1]), f"accuracy {accuracy(small, [test]):.1%}")
