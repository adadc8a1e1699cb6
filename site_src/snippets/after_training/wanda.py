import torch

from reference_impls.after_training.wanda import masks
from reference_impls.core.amounts import NM
from reference_impls.core.masks import masked, sparsity_of
from reference_impls.core.training import accuracy, fit
from reference_impls.zoo import data, networks

generator = torch.Generator().manual_seed(0)
batches = data.batches(*data.sequences(256, 24, 64, generator), 32)
model = fit(networks.gpt_small(generator=generator), batches, 8, optimizer=lambda p: torch.optim.Adam(p, 3e-3))
print(f"next token foretold: {accuracy(model, batches):.1%} by the dense network")
for amount in (0.5, 0.7, NM(2, 4)):
    found = masks(model, batches[:2], amount)
    print(f"{accuracy(masked(model, found), batches):.1%} with {sparsity_of(found):.0%} of the weights gone ({amount})")
