"""The Flax VAE example's configuration (784-500-z20-500-784, ReLU, Adam 1e-3, batch 128) on static binarised MNIST.

    KERAS_BACKEND=jax python examples/binarized_mnist.py binarized_mnist.npz [epochs]

The file holds `train` (50,000 rows) and `test` (10,000 rows), each row 784 pixels in 98 bytes (`np.packbits`).
"""

import sys

import keras
import numpy as np

import keras_vae

with np.load(sys.argv[1]) as file:
    train, test = (np.unpackbits(file[name], axis=1).astype("float32") for name in ("train", "test"))
keras.utils.set_random_seed(0)
encoder, decoder = keras_vae.networks.mlp((784,), latent_dim=20, hidden=(500,))
vae = keras_vae.VAE(encoder, decoder, likelihood="bce", seed=0)
vae.compile(keras.optimizers.Adam(1e-3))
vae.fit(train, batch_size=128, epochs=int(sys.argv[2]) if len(sys.argv) > 2 else 10, verbose=2)
logs = vae.evaluate(test, batch_size=1000, verbose=0, return_dict=True)
print(f"weights on {vae.trainable_variables[0].value.device}")
print(f"{keras.backend.backend()}: test negative ELBO {logs['negative_elbo']:.2f} nats, of which KL {logs['kl']:.2f}")
