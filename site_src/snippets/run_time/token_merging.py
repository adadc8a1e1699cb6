import torch
from reference_impls.core import counting
from reference_impls.core.training import accuracy, fit
from reference_impls.run_time import token_merging
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import vit_small

(inputs, targets), (test_inputs, test_targets) = digits()
train, test = batches(inputs, targets, 64, torch.Generator().manual_seed(0)), batches(test_inputs, test_targets, 360)
model = vit_small(layers=4, generator=torch.Generator().manual_seed(0))
fit(model, train, 5, optimizer=lambda parameters: torch.optim.Adam(parameters, 0.003))
print(f"all patches: {counting.macs(model, inputs[:1]):,} MACs, accuracy {accuracy(model, test):.1%}")
for amount in (0.25, 0.5, 0.75):
    merged = token_merging.wrap(model, amount)
    print(f"{amount:.0%} merged, no training: {int(merged.macs(inputs[:1])):,} MACs, accuracy {accuracy(merged, test):.1%}")
