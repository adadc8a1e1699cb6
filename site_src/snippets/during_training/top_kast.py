import torch

from reference_impls.core.training import accuracy, fit
from reference_impls.during_training import top_kast
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import lenet_300_100

train, test = digits()
data = batches(*train, 64)
for name, backward_density in (("only what is used", 0.0201), ("twice as many as are used", 0.04)):
    model = lenet_300_100(generator=torch.Generator().manual_seed(0))
    fit(model, data, 15, top_kast.callbacks(model, 0.98, backward_density=backward_density))
    print(f"updating {name}: accuracy {accuracy(model, [test]):.1%} with 2% of the weights")
