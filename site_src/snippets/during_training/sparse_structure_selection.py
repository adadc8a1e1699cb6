import torch
from reference_impls.core import counting
from reference_impls.core.amounts import Strength
from reference_impls.core.training import accuracy, fit, momentum_sgd
from reference_impls.during_training import sparse_structure_selection
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import ResNet

train, test = digits()
for strength in (0.0, 0.5):
    torch.manual_seed(0)
    model = ResNet(3, 8, 1, 10)
    selection = sparse_structure_selection.callbacks(model, Strength(strength))
    small = fit(model, batches(*train, 64), 4, selection, optimizer=lambda weights: momentum_sgd(weights, 0.05))
    print(f"strength {strength}:", counting.report(small, test[0][:1]), f"accuracy {accuracy(small, [test]):.1%}")
