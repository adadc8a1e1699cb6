import torch
from reference_impls.during_training import metapruning
from reference_impls.core import counting
from reference_impls.core.amounts import Budget
from reference_impls.core.training import accuracy, fit, momentum_sgd
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import convnet

(inputs, targets), (test_inputs, test_targets) = digits()
train, held_out = batches(inputs[400:], targets[400:], 64), batches(inputs[:400], targets[:400], 400)
learn = lambda network: fit(network, train, 8, optimizer=lambda weights: momentum_sgd(weights, 0.02))
options = {"generations": 3, "population": 10, "hidden": 16, "generator": torch.Generator().manual_seed(0)}
judge, dense = lambda network: accuracy(network, held_out), convnet(generator=torch.Generator().manual_seed(0))
found = metapruning.prune(dense, train[:3], Budget(macs=50000), train=learn, evaluate=judge, **options)
print(counting.report(found, inputs[:1]), f"accuracy {accuracy(found, [(test_inputs, test_targets)]):.1%}")
