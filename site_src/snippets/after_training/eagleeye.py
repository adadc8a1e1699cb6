import torch
from reference_impls.after_training import eagleeye
from reference_impls.core import counting
from reference_impls.core.amounts import Budget
from reference_impls.core.training import accuracy, fit
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import resnet8

(inputs, targets), test = digits()
data, kept_apart = batches(inputs[:1100], targets[:1100], 64), [(inputs[1100:], targets[1100:])]
model = fit(resnet8(generator=torch.Generator().manual_seed(0)), data, 6)
budget, search = Budget(macs=counting.macs(model, inputs[:1]) / 2), {"candidates": 10, "passes": 20}
small = eagleeye.prune(model, data, budget, train=lambda m: fit(m, data, 2), evaluate=lambda m: accuracy(m, kept_apart), **search)
for network in (model, small):
    print(counting.report(network, inputs[:1]), f"accuracy {accuracy(network, [test]):.1%}")
