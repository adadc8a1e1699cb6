import torch
from reference_impls.after_training import hydra
from reference_impls.core.counting import weight_sparsity
from reference_impls.core.training import accuracy, fit, momentum_sgd
from reference_impls.zoo.data import batches, digits
from reference_impls.zoo.networks import mlp

(inputs, targets), test = digits()
noise = lambda images: images + 0.5 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
train = [batch for images in (inputs, noise(inputs)) for batch in batches(images, targets, 64)]  # noisy images are to be read too
learn = lambda network, callbacks=(): fit(network, train, 6, callbacks, optimizer=lambda weights: momentum_sgd(weights, 0.05))
model = learn(mlp([64, 100, 100, 10], generator=torch.Generator().manual_seed(0)))
for network in (model, hydra.prune(model, train, 0.9, train=learn)):
    clean, noisy = accuracy(network, [test]), accuracy(network, [(noise(test[0]), test[1])])
    print(f"sparsity {weight_sparsity(network):.0%}: accuracy {clean:.1%}, with noise {noisy:.1%}")
