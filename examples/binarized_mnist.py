"""The Flax VAE example's configuration (784-500-z20-500-784, ReLU, Adam 1e-3, batch 128) on static binarised MNIST.

    KERAS_BACKEND=jax python examples/binarized_mnist.py binarized_mnist.npz [epochs] [--log-likelihood 1000]

The file holds `train` (50,000 rows) and `test` (10,000 rows), each row 784 pixels in 98 bytes (`np.packbits`).
With `--log-likelihood` it also prints log p(x), estimated with that many draws of z for each of 2,000 test images.
"""

import argparse

import keras
import numpy as np

import keras_vae

parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
parser.add_argument("file")
parser.add_argument("epochs", nargs="?", type=int, default=10)
parser.add_argument("--log-likelihood", type=int, metavar="DRAWS")
options = parser.parse_args()

with np.load(options.file) as file:
    train, test = (np.unpackbits(file[name], axis=1).astype("float32") for name in ("train", "test"))
keras.utils.set_random_seed(0)
encoder, decoder = keras_vae.networks.mlp((784,), latent_dim=20, hidden=(500,))
vae = keras_vae.VAE(encoder, decoder, likelihood="bce", seed=0)
vae.compile(keras.optimizers.Adam(1e-3))
vae.fit(train, batch_size=128, epochs=options.epochs, verbose=2)
logs = vae.evaluate(test, batch_size=1000, verbose=0, return_dict=True)
print(f"weights on {vae.trainable_variables[0].value.device}")
print(f"{keras.backend.backend()}: test negative ELBO {logs['negative_elbo']:.2f} nats, of which KL {logs['kl']:.2f}")

if options.log_likelihood:
    # The file is sorted by class, and its first rows are the easiest digits: choose rows at random.
    some = np.random.default_rng(0).permutation(len(test))[:2000]
    found = keras_vae.evaluation.log_likelihood(vae, test[some], num_samples=options.log_likelihood)
    print(
        f"{keras.backend.backend()}: test log p(x) {found.mean:.2f} nats, Monte-Carlo error "
        f"{found.mean_standard_error:.2f} ({options.log_likelihood} draws for {len(some)} random images)"
    )
