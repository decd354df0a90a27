"""What it costs to treat grey pixels as Bernoulli: Loaiza-Ganem & Cunningham 2019 on MNIST.

    KERAS_BACKEND=jax python benchmarks/continuous_bernoulli.py mnist [--epochs 25]

`mnist` is the folder of the four idx files. One model is trained with the continuous Bernoulli and one with the
Bernoulli, on the same grey pixels; then the bound of both is measured with the density of the continuous Bernoulli, and
that of the second once more with its output taken for what training made it, the mean, not the parameter.

The authors' settings: pixels (x + u) / 256 with u uniform, 784-500-500-z20-500-500-784, ReLU, dropout 0.1, Adam 1e-3,
the parameter lambda kept in [0.0001, 0.9999].

Reference: Loaiza-Ganem & Cunningham 2019, The continuous Bernoulli: fixing a pervasive error in variational
autoencoders, arXiv:1907.06845, section 5.1.
"""

import argparse

import keras
import numpy as np
from keras import layers, ops

import keras_vae

LARGEST_LOGIT = float(np.log(0.9999 / 0.0001))
PUBLISHED = {"continuous Bernoulli": 1470, "Bernoulli": 1139, "Bernoulli, its output taken for the mean": 1416}


def networks(width=500, latent_dim=20):
    def hidden(h):
        for _ in range(2):
            h = layers.Dropout(0.1)(layers.Dense(width, activation="relu")(h))
        return h

    x, z = keras.Input((28, 28, 1)), keras.Input((latent_dim,))
    h = hidden(layers.Flatten()(x))
    outputs = {"z_mean": layers.Dense(latent_dim)(h), "z_log_var": layers.Dense(latent_dim)(h)}
    logits = ops.clip(layers.Dense(784)(hidden(z)), -LARGEST_LOGIT, LARGEST_LOGIT)
    return keras.Model(x, outputs), keras.Model(z, layers.Reshape((28, 28, 1))(logits))


class LogitsAtMean(layers.Layer):
    """The logits at which the continuous Bernoulli has the mean sigmoid(input), by bisection, in the same range."""

    def call(self, logits):
        mean = ops.sigmoid(logits)
        low, high = ops.full_like(mean, -LARGEST_LOGIT), ops.full_like(mean, LARGEST_LOGIT)
        for _ in range(24):  # to 2e-6
            middle = 0.5 * (low + high)
            below = keras_vae.ContinuousBernoulli().mean(middle) < mean
            low, high = ops.where(below, middle, low), ops.where(below, high, middle)
        return 0.5 * (low + high)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", help="folder of the four idx files")
    parser.add_argument("--epochs", type=int, default=25)
    parser.add_argument("--batch-size", type=int, default=100)
    options = parser.parse_args()

    rng = np.random.default_rng(0)
    data = keras_vae.datasets.load(options.data)
    train, test = ((255.0 * x + rng.random(x.shape, dtype="float32")) / 256.0 for x in (data.train, data.test))

    trained = {}
    for likelihood in (keras_vae.ContinuousBernoulli(), keras_vae.Bernoulli()):
        keras.utils.set_random_seed(0)
        vae = keras_vae.VAE(*networks(), likelihood, seed=0)
        vae.compile(keras_vae.FusedAdam(1e-3))
        vae.fit(train, batch_size=options.batch_size, epochs=options.epochs, verbose=2)
        trained[type(likelihood).__name__] = vae.encoder, vae.decoder

    encoder, decoder = trained["Bernoulli"]
    pairs = {
        "continuous Bernoulli": trained["ContinuousBernoulli"],
        "Bernoulli": trained["Bernoulli"],
        "Bernoulli, its output taken for the mean": (encoder, keras.Sequential([decoder, LogitsAtMean()])),
    }
    print(f"{keras.backend.backend()}, {options.epochs} epochs; test ELBO in nats, density of the continuous Bernoulli")
    for name, pair in pairs.items():
        elbo = keras_vae.VAE(*pair, keras_vae.ContinuousBernoulli()).elbo(test, seed=0).mean()
        print(f"trained as {name:42s} {elbo:8.1f}   published {PUBLISHED[name]}")


if __name__ == "__main__":
    main()
