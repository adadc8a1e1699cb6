import torch

from reference_impls.after_training import woodfisher
from reference_impls.core.training import accuracy, fit
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import mlp

train, test = digits()
model = fit(mlp([64, 32, 32, 10], generator=torch.Generator().manual_seed(0)), batches(*train, 64), 10)
print(f"dense: accuracy {accuracy(model, [test]):.1%}")
for rounds, block in ((1, 16), (1, 512), (3, 512)):
    pruned = woodfisher.prune(model, batches(*train, 16), 0.8, rounds=rounds, block=block)
    print(f"a fifth of the weights, {rounds} rounds, blocks of {block}: accuracy {accuracy(pruned, [test]):.1%}")
