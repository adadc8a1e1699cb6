import torch

from reference_impls.after_training import domino_search
from reference_impls.core.training import fit
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import mlp

train_on, _ = digits()
data = batches(*train_on, 64)
train = lambda model, callbacks=(): fit(model, data, 5, callbacks)
model = train(mlp([64, 128, 64, 10], generator=torch.Generator().manual_seed(0)))
patterns = domino_search.search(model, data, 0.75, train, m=16, decay=0.1, check_every=5, penalty_every=1)
print(*(f"{name}: {pattern.n} of {pattern.m}" for name, pattern in patterns.items()), sep="\n")
