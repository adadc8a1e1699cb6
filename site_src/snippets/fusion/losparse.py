import torch
from reference_impls.core import counting
from reference_impls.core.training import accuracy, fit, momentum_sgd
from reference_impls.fusion import losparse
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import mlp

(inputs, targets), test = digits()
train, gently = batches(inputs, targets, 64), lambda weights: momentum_sgd(weights, 0.02)
model = fit(mlp([64, 200, 200, 10], generator=torch.Generator().manual_seed(0)), train, 6, optimizer=gently)
print(f"{counting.parameters(model):,} parameters, accuracy {accuracy(model, [test]):.1%}")
small = fit(model, train, 6, losparse.callbacks(model, 0.95, steps=6 * len(train)), optimizer=gently)
print("rank and rows of each layer", [(layer.left.shape[1], len(layer.rows)) for layer in small if hasattr(layer, "rows")])
print(f"{counting.parameters(small):,} parameters, accuracy {accuracy(small, [test]):.1%}")
