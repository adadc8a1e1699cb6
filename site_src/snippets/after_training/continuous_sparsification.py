import torch

from reference_impls.after_training import continuous_sparsification
from reference_impls.core.amounts import Strength
from reference_impls.core.counting import weight_sparsity
from reference_impls.core.training import accuracy, fit
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import lenet_300_100

train, test = digits()
model = lenet_300_100(generator=torch.Generator().manual_seed(0))
search = lambda network, callbacks: fit(network, batches(*train, 64), 10, callbacks)
for start in (0.0, -0.3):
    ticket = continuous_sparsification.prune(model, [], Strength(1e-4), train=search, epochs=10, initial=start)
    print(f"s from {start}: sparsity {weight_sparsity(ticket):.1%}, accuracy {accuracy(ticket, [test]):.1%}")
