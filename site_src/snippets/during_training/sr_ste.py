import torch

from reference_impls.core.amounts import NM
from reference_impls.core.training import accuracy, fit
from reference_impls.during_training import sr_ste
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import lenet_300_100

train, test = digits()
data = batches(*train, 64)
model = lenet_300_100(generator=torch.Generator().manual_seed(0))
fit(model, data, 5, sr_ste.callbacks(model, NM(2, 4), steps=5 * len(data)))
print("eight weights of one row:", [round(weight, 3) for weight in model[1].weight[0, 32:40].tolist()])
print(f"accuracy at 2:4: {accuracy(model, [test]):.1%}")
