import torch
from reference_impls.core import counting
from reference_impls.core.training import OwnPenalty, accuracy, fit
from reference_impls.run_time import dynamic_vit
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import vit_small

(inputs, targets), (test_inputs, test_targets) = digits()
train, test = batches(inputs, targets, 64, torch.Generator().manual_seed(0)), batches(test_inputs, test_targets, 360)
adam = lambda parameters: torch.optim.Adam(parameters, 0.003)
model = fit(vit_small(layers=4, generator=torch.Generator().manual_seed(0)), train, 4, optimizer=adam)
pruned = fit(dynamic_vit.wrap(model, 0.3), train, 3, [OwnPenalty()], optimizer=adam)
print(f"all patches: {counting.macs(model, inputs[:1]):,} MACs, accuracy {accuracy(model, test):.1%}")
print(f"a third of them in the end: {int(pruned.macs(inputs[:1])):,} MACs, accuracy {accuracy(pruned, test):.1%}")
