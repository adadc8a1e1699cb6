import torch

from reference_impls.before_training import snip, synflow
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import mlp

train, _ = digits()
data = batches(*train, 64)
model = mlp([64, *[40] * 7, 10], generator=torch.Generator().manual_seed(0))
for layer in model[1::2]:
    torch.nn.init.zeros_(layer.bias)
for method in (snip, synflow):
    masks = method.masks(model, data, 0.999)
    print(method.__name__.rpartition(".")[2], "keeps per layer:", [int(mask.sum()) for mask in masks.values()])
