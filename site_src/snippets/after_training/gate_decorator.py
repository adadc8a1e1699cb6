import torch
from reference_impls.after_training import gate_decorator
from reference_impls.core import counting
from reference_impls.core.training import accuracy, fit, momentum_sgd
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import convnet

train, test = digits()
data = batches(*train, 64, torch.Generator().manual_seed(0))
model = fit(convnet((16, 16, 32, 32), generator=torch.Generator().manual_seed(0)), data, 3)
slow = lambda network, callbacks: fit(network, data, 1, callbacks, optimizer=lambda weights: momentum_sgd(weights, 0.01))
small = gate_decorator.prune(model, data, 0.6, train=slow, rounds=3)
for name, network in (("dense", model), ("60 % of the filters gone", small)):
    print(f"{name}:", counting.report(network, test[0][:1]), f"accuracy {accuracy(network, [test]):.1%}")
