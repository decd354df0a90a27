"""Frey Face with a Gaussian decoder, as in Kingma & Welling 2014, figure 2: the bound against samples seen.

    KERAS_BACKEND=jax python examples/frey_face.py frey_face.npz [--epochs 5000] [--output frey_face.png]

The file holds `images`, 1965 faces of 28x20 bytes. Encoder 560-200-z and decoder z-200-(mean, log-variance) with tanh,
the mean through a sigmoid, batches of 100, one model for each number of latents. The dashed lines are the closed-form
optimum of probabilistic PCA: a linear model with one variance for all pixels. As in the paper the likelihood is a
density, so the bound depends on the units: the pixels are scaled to [0, 1]. It is measured on the training faces.

Reference: Kingma & Welling 2014, arXiv:1312.6114, section 5 and appendix C.2; Tipping & Bishop 1999.
"""

import argparse

import keras
import numpy as np
from keras import layers
from matplotlib.figure import Figure

import keras_vae

parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
parser.add_argument("file")
parser.add_argument("--epochs", type=int, default=5000)
parser.add_argument("--latents", type=int, nargs="+", default=[2, 5, 10, 20])
parser.add_argument("--learning-rate", type=float, default=1e-3)
parser.add_argument("--output", default="frey_face.png")
options = parser.parse_args()


def networks(latent_dim, width=200):
    x, z = keras.Input((560,)), keras.Input((latent_dim,))
    h = layers.Dense(width, activation="tanh")(x)
    outputs = {"z_mean": layers.Dense(latent_dim)(h), "z_log_var": layers.Dense(latent_dim)(h)}
    h = layers.Dense(width, activation="tanh")(z)
    # p(x|z) = N(mean(z), diag(exp(log_var(z)))): `Gaussian("predicted")` reads the means, then the log-variances.
    mean, log_var = layers.Dense(560, activation="sigmoid")(h), layers.Dense(560)(h)
    return keras.Model(x, outputs), keras.Model(z, layers.Concatenate()([mean, log_var]))


def ppca(x, latent_dim):
    """Maximum log-likelihood per example of probabilistic PCA: Tipping & Bishop 1999, equation 8."""
    eigenvalues = np.linalg.eigvalsh(np.cov(x.T, bias=True))[::-1]
    noise = eigenvalues[latent_dim:].mean()
    log_determinant = np.log(eigenvalues[:latent_dim]).sum() + (len(eigenvalues) - latent_dim) * np.log(noise)
    return -0.5 * (len(eigenvalues) * np.log(2.0 * np.pi) + log_determinant + len(eigenvalues))


with np.load(options.file) as file:
    x = file["images"].reshape(-1, 560).astype("float32") / 255.0
epochs = np.unique(np.geomspace(1, options.epochs, 60).round().astype(int))  # when the bound is measured

figure = Figure(figsize=(7.0, 4.5), layout="constrained")
axes = figure.subplots()
for i, latent_dim in enumerate(options.latents):
    keras.utils.set_random_seed(0)
    vae = keras_vae.VAE(*networks(latent_dim), likelihood=keras_vae.Gaussian("predicted"), seed=0)
    vae.compile(keras.optimizers.Adam(options.learning_rate))
    logs = vae.fit(
        x,
        batch_size=100,
        epochs=options.epochs,
        validation_data=(x,),
        validation_freq=epochs.tolist(),
        verbose=0,
    )
    bound, closed_form = -np.array(logs.history["val_negative_elbo"]), ppca(x, latent_dim)
    print(
        f"{keras.backend.backend()}: {latent_dim:2d} latents, bound {bound[-1]:.1f} nats after "
        f"{options.epochs * len(x):.2g} samples; probabilistic PCA {closed_form:.2f}",
        flush=True,
    )
    axes.plot(epochs * len(x), bound, color=f"C{i}", label=f"{latent_dim} latents")
    axes.axhline(closed_form, color=f"C{i}", linestyle="--", linewidth=1.0)
axes.set(
    xscale="log",
    ylim=(0.0, None),
    xlabel="training samples seen",
    ylabel="bound on log p(x), nats per face",
    title="Frey Face: VAE (solid) and probabilistic PCA (dashed)",
)
axes.legend(loc="upper left")
figure.savefig(options.output, dpi=120)
