import torch
from reference_impls.core import counting
from reference_impls.core.training import OwnPenalty, accuracy, fit
from reference_impls.run_time import dual_gating
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import resnet8

(inputs, targets), (test_inputs, test_targets) = digits()
train, test = batches(inputs, targets, 64, torch.Generator().manual_seed(0)), batches(test_inputs, test_targets, 360)
model = fit(resnet8(generator=torch.Generator().manual_seed(0)), train, 2)
gated = fit(dual_gating.wrap(model, 0.5, generator=torch.Generator().manual_seed(0)), train, 4, [OwnPenalty()])
spent = gated.macs(test_inputs).float()
print(f"dense: {counting.macs(model, inputs[:1]):,} MACs, accuracy {accuracy(model, test):.1%}")
print(f"gated: {spent.mean():,.0f} MACs an image, {spent.min():,.0f} to {spent.max():,.0f}; accuracy {accuracy(gated, test):.1%}")
