import torch

from reference_impls.core import counting
from reference_impls.core.training import accuracy, fit, momentum_sgd
from reference_impls.during_training import early_bird
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import convnet

train_set, test = digits()
data = batches(*train_set, 64)
model = convnet((16, 16, 32, 32), generator=torch.Generator().manual_seed(0))
train = lambda network, callbacks=(): fit(network, data, 10, callbacks, optimizer=lambda p: momentum_sgd(p, 0.05))
small = early_bird.prune(model, data, 0.5, train=train, strength=1e-3)
print(f"{counting.parameters(model)} -> {counting.parameters(small)} parameters, accuracy {accuracy(small, [test]):.1%}")
