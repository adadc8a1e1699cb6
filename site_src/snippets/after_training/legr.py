import torch
from reference_impls.after_training import legr
from reference_impls.core import counting
from reference_impls.core.amounts import Budget
from reference_impls.core.training import accuracy, fit
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import convnet

(inputs, targets), (test_inputs, test_targets) = digits()
train, held_out = batches(inputs[400:], targets[400:], 64), batches(inputs[:400], targets[:400], 400)
model = fit(convnet(generator=torch.Generator().manual_seed(0)), train, 3)
half, score = Budget(macs=0.5 * counting.macs(model, inputs[:1])), lambda network: accuracy(network, held_out)
ranked = legr.prune(model, train, half, evaluate=score, candidates=40, population=16, samples=6, generator=torch.Generator().manual_seed(0))
for network in (model, fit(ranked, train, 2)):
    print(counting.report(network, inputs[:1]), f"accuracy {accuracy(network, [(test_inputs, test_targets)]):.1%}")
