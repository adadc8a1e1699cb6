import torch
from reference_impls.core import counting
from reference_impls.core.amounts import Budget
from reference_impls.core.training import accuracy, fit, momentum_sgd
from reference_impls.fusion import tas
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import convnet

(inputs, targets), test = digits()
train = batches(inputs, targets, 64)
learn = lambda network, callbacks=(): fit(network, train, 4, callbacks, optimizer=lambda weights: momentum_sgd(weights, 0.02))
model = learn(convnet(generator=torch.Generator().manual_seed(0)))
half = Budget(macs=0.5 * counting.macs(model, inputs[:1]))
for network in (model, tas.prune(model, train, half, train=learn, epochs=4, generator=torch.Generator().manual_seed(0))):
    print(counting.report(network, inputs[:1]), f"accuracy {accuracy(network, [test]):.1%}")
