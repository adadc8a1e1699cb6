import torch
from reference_impls.after_training import amc
from reference_impls.core import counting
from reference_impls.core.amounts import Budget
from reference_impls.core.training import accuracy, fit
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import convnet

(inputs, targets), (test_inputs, test_targets) = digits()
train, held_out = batches(inputs[400:], targets[400:], 64), batches(inputs[:400], targets[:400], 400)
model = fit(convnet(generator=torch.Generator().manual_seed(0)), train, 3)
half = Budget(macs=0.5 * counting.macs(model, inputs[:1]))
chosen = amc.prune(model, train, half, evaluate=lambda network: accuracy(network, held_out), episodes=40, warmup=15)
for network in (model, fit(chosen, train, 2)):
    print(counting.report(network, inputs[:1]), f"accuracy {accuracy(network, [(test_inputs, test_targets)]):.1%}")
