import torch

from reference_impls.after_training import learning_rate_rewinding
from reference_impls.core.training import accuracy, fit, momentum_sgd
from reference_impls.zoo import data, networks

generator = torch.Generator().manual_seed(0)
(inputs, targets), test = data.digits()
batches = data.batches(inputs, targets, 64, generator)
model, steps = networks.lenet_300_100(generator=generator), 5 * len(batches)
train = lambda network, callbacks=(): fit(network, batches, 5, callbacks, optimizer=lambda p: momentum_sgd(p, 0.05))
schedule = lambda step: 1.0 if step < 2 * steps // 3 else 0.01
for name, rewind in (("fine-tuning", steps), ("learning rates rewound", 0)):
    pruned = learning_rate_rewinding.prune(model, batches, 0.99, train=train, rounds=2, schedule=schedule, rewind=rewind)
    print(f"{name}: {accuracy(pruned, [test]):.1%} accuracy with 1 % of the weights")
