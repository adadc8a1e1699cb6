import torch

from reference_impls.after_training import movement
from reference_impls.core.training import accuracy, fit
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import lenet_300_100

(images, targets), test = digits()
adam = lambda parameters: torch.optim.Adam(parameters, 1e-3)
lying, upright = batches(images.transpose(2, 3), targets, 64), batches(images, targets, 64)
model = fit(lenet_300_100(generator=torch.Generator().manual_seed(0)), lying, 5, optimizer=adam)
print(f"pretrained on digits that lie: accuracy {accuracy(model, [test]):.1%}")
[moving] = movement.callbacks(model, 0.9, steps=10 * len(upright), learning_rate=1e-2)
fit(model, upright, 10, [moving], optimizer=adam)
print(f"fine-tuned with a tenth of the weights: {accuracy(model, [test]):.1%}")
