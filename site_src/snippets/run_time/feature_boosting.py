import torch
from reference_impls.core import counting
from reference_impls.core.training import OwnPenalty, accuracy, fit
from reference_impls.run_time import feature_boosting
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import convnet

(inputs, targets), (test_inputs, test_targets) = digits()
train, test = batches(inputs, targets, 64, torch.Generator().manual_seed(0)), batches(test_inputs, test_targets, 360)
model = fit(convnet(generator=torch.Generator().manual_seed(0)), train, 3)
boosted = feature_boosting.wrap(model, 0.25, generator=torch.Generator().manual_seed(0))
fit(boosted, train, 4, [OwnPenalty()])
spent = boosted.macs(test_inputs).float()
print(f"dense: {counting.macs(model, inputs[:1]):,} MACs, accuracy {accuracy(model, test):.1%}")
print(f"a quarter skipped: {spent.min():,.0f} to {spent.max():,.0f} MACs an image, accuracy {accuracy(boosted, test):.1%}")
