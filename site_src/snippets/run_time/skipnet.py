import torch
from reference_impls.core.amounts import Strength
from reference_impls.core.training import accuracy, fit
from reference_impls.run_time import skipnet
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import resnet8

(inputs, targets), (test_inputs, test_targets) = digits()
train, test = batches(inputs, targets, 64, torch.Generator().manual_seed(0)), batches(test_inputs, test_targets, 360)
skipping = skipnet.wrap(resnet8(generator=torch.Generator().manual_seed(0)), Strength(1.0))
for stage, loss in (("supervised", None), ("hybrid", skipping.hybrid_loss)):
    fit(skipping if loss is None else skipping.draw_decisions(), train, 5, **({} if loss is None else {"loss": loss}))
    spent = skipping.macs(test_inputs).float()
    print(f"{stage}: {spent.mean():,.0f} MACs an image, {spent.min():,.0f} to {spent.max():,.0f}; accuracy {accuracy(skipping, test):.1%}")
