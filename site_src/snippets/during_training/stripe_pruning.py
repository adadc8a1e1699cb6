import torch
from torch import nn

from reference_impls.core import amounts, counting, training
from reference_impls.during_training import stripe_pruning
from reference_impls.zoo.data import batches, digits

(inputs, targets), test = digits()
torch.manual_seed(0)
model = nn.Sequential(nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 10))
stripes = stripe_pruning.callbacks(model, amounts.Strength(0.01), threshold=0.1)
training.fit(model, batches(inputs, targets, 64), 10, stripes)
for name, network in (("zero stripes", model), ("1 x 1 convolutions", stripe_pruning.reorganized(model))):
    print(f"{name}: {counting.report(network, inputs[:1])}, accuracy {training.accuracy(network, [test]):.1%}")
