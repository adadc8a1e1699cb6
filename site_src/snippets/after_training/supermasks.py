import torch

from reference_impls.after_training import supermasks
from reference_impls.core.training import accuracy, fit, momentum_sgd
from reference_impls.zoo import data, networks

generator = torch.Generator().manual_seed(0)
(inputs, targets), test = data.digits()
batches = data.batches(inputs, targets, 64, generator)
model = networks.lenet_300_100(generator=generator)
train = lambda network, callbacks=(): fit(network, batches, 8, callbacks, optimizer=lambda p: momentum_sgd(p, 0.05))
print(f"untrained: {accuracy(model, [test]):.1%} accuracy")
for criterion in ("small_final", "magnitude_increase", "large_final_same_sign"):
    masked = supermasks.prune(model, batches, 0.5, train=train, criterion=criterion)
    print(f"untrained, half of the weights masked by {criterion}: {accuracy(masked, [test]):.1%}")
