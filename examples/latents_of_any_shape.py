"""Latents that are a map or a series: a fully convolutional VAE of colour images, and one of time series.

    KERAS_BACKEND=torch python examples/latents_of_any_shape.py images fashion_mnist [--epochs 10]
    KERAS_BACKEND=torch python examples/latents_of_any_shape.py series

The images are 64x64, four pieces of clothing of random colours (`fashion_mnist` is the folder of the four idx files;
without it they are the embedded digits), and z is `(8, 8, 4)`: 256 numbers for 12,288. Height and width are free, so
the same model then encodes images of 96x128 into `(12, 16, 4)`. The series are three sensors of a damped oscillation,
64 steps each, and z is `(8, 2)`.

The script writes a picture of data and reconstructions, prints the bound in nats, and exports the model with the scale
of its codes, so that a second model, such as a diffusion model, can be trained on `encode(x, standardized=True)`.

Reference: Rombach et al. 2022, arXiv:2112.10752 (a spatial z, which a second model then learns).
"""

import argparse
import pathlib

import keras
import numpy as np

import keras_vae
import keras_vae_export
from keras_vae import evaluation, networks, plotting

parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
parser.add_argument("what", choices=("images", "series"))
parser.add_argument("data", nargs="?", default="digits", help="folder of four idx files, or digits; for images")
parser.add_argument("--epochs", type=int, default=10)
parser.add_argument("--examples", type=int, default=10000, help="number of examples to train on")
parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("latents_of_any_shape"), help="a folder")
options = parser.parse_args()


def collages(pictures, count, rows, columns, seed):
    """`(count, 32 * rows, 32 * columns, 3)`: grey pictures of 28x28 or less, each of a random colour, in a grid."""
    rng = np.random.default_rng(seed)
    margin = (32 - pictures.shape[1]) // 2
    pictures = pictures[rng.integers(len(pictures), size=(count, rows, columns))]
    colour = rng.uniform(0.3, 1.0, (count, rows, columns, 1, 1, 3)).astype("float32")
    tiles = np.pad(pictures, [(0, 0)] * 3 + [(margin, margin)] * 2 + [(0, 0)]) * colour
    return tiles.swapaxes(2, 3).reshape(count, 32 * rows, 32 * columns, 3)


def oscillations(count, seed):
    """`(count, 64, 3)`: place, speed and acceleration of a damped oscillator, measured with an error of 0.05."""
    rng = np.random.default_rng(seed)
    time = np.linspace(0.0, 1.0, 64)
    rate = rng.uniform(0.5, 3.0, (count, 1)) + 2j * np.pi * rng.uniform(1.0, 5.0, (count, 1))
    path = np.exp(2j * np.pi * rng.random((count, 1)) - rate * time)
    sensors = np.stack([path, path * rate / 20.0, path * rate**2 / 400.0], axis=-1).real
    return (sensors + 0.05 * rng.standard_normal(sensors.shape)).astype("float32")


likelihood = keras_vae.Gaussian("learned")
if options.what == "images":
    loaded = keras_vae.datasets.load(options.data)
    train, test = collages(loaded.train, options.examples, 2, 2, seed=0), collages(loaded.test, 500, 2, 2, seed=1)
    shape, channels, filters = (None, None, 3), 4, (16, 32, 32)
else:
    train, test = oscillations(options.examples, seed=0), oscillations(500, seed=1)
    shape, channels, filters = (64, 3), 2, (32, 32, 32)

keras.utils.set_random_seed(0)
encoder, decoder = networks.conv_spatial(shape, channels, filters=filters, likelihood=likelihood)
vae = keras_vae.VAE(encoder, decoder, likelihood, seed=0)
vae.compile(keras.optimizers.Adam(1e-3))
vae.fit(train, batch_size=50, epochs=options.epochs, verbose=2)

bound, z = evaluation.held_out(vae, test, num_samples=4), vae.encode(test)
print(
    f"{keras.backend.backend()}: z of shape {z.location.shape[1:]}; test ELBO {-bound['negative_elbo']:.1f} nats, of "
    f"which KL {bound['kl']:.1f}; sigma {vae.likelihood.current_scale:.3f}"
)
if options.what == "images":
    larger = collages(loaded.test, 4, 3, 4, seed=2)
    error = np.sqrt(np.mean(np.square(vae.reconstruct(larger) - larger)))
    print(f"images of {larger.shape[1:3]}: z of {vae.encode(larger).location.shape[1:]}, error {error:.3f}")

vae.latent_statistics = evaluation.latent_statistics(vae, train)
codes = vae.encode(test, standardized=True).location
assert np.allclose(vae.decode(codes, standardized=True), vae.decode(z.location), atol=1e-4)
options.output.mkdir(parents=True, exist_ok=True)
plotting.reconstructions(vae, test[:10]).savefig(options.output / f"{options.what}.png", dpi=100)
keras_vae_export.export(vae, options.output / f"{options.what}_bundle", data=test, overwrite=True)
