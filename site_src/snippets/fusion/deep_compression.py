import torch

from reference_impls.core.masks import prunable_weights
from reference_impls.core.training import accuracy, fit, momentum_sgd
from reference_impls.fusion.deep_compression import encode, prune
from reference_impls.zoo import data, networks

generator = torch.Generator().manual_seed(0)
(inputs, targets), test = data.digits()
batches = data.batches(inputs, targets, 64, generator)
train = lambda network, callbacks=(): fit(network, batches, 4, callbacks, optimizer=lambda p: momentum_sgd(p, 0.02))
model = train(networks.lenet_300_100(generator=generator))
pruned = prune(model, batches, 0.95, train=train, bits=3)
bits, weights = sum(encode(w).bits for w in prunable_weights(pruned).values()), prunable_weights(model).values()
print(f"{32 * sum(w.numel() for w in weights) / bits:.0f} times smaller: {bits / 8000:.1f} kB, {accuracy(pruned, [test]):.1%} accuracy")
