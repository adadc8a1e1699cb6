import copy

import torch

from reference_impls.core.training import accuracy, fit
from reference_impls.during_training.linear_mode_connectivity import instability
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import mlp

(train, test), draw = digits(), torch.Generator().manual_seed(0)
one, two, three = (batches(*train, 32, draw) for _ in range(3))
model = mlp((64, 100, 100, 100, 100, 10), generator=draw)
for name, start in (("the start", model), ("epoch 4", fit(copy.deepcopy(model), three, 4))):
    barrier = instability(start, lambda n: fit(n, one, 4), lambda n: fit(n, two, 4), lambda n: 1 - accuracy(n, [test]), points=11)
    print(f"two copies from {name}: the error rises by {barrier:.1%} on the line between them")
