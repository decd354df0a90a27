"""Three ways to sample from a VAE: z from the prior, from a mixture fitted to the codes, and from a second VAE.

    KERAS_BACKEND=jax python examples/two_stage.py [--epochs 100] [--output two_stage.png]

The data are the embedded digits, 8x8 grey values. The first VAE has a likelihood with a small scale: it reconstructs
well, but its codes are far from the prior. The picture shows samples of each way and training digits. The title of each
gives the energy distance of 1,000 of them to held-out digits; 0 means the same distribution.

Reference: Dai & Wipf 2019, Diagnosing and enhancing VAE models, arXiv:1903.05789, section 4 (two stages); Ghosh et al.
2020, arXiv:1903.12436, section 4 (mixture); Székely & Rizzo 2013, Energy statistics.
"""

import argparse

import keras
import numpy as np
from matplotlib.figure import Figure

import keras_vae

parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
parser.add_argument("--epochs", type=int, default=100, help="epochs of each stage")
parser.add_argument("--latents", type=int, default=16)
parser.add_argument("--samples", type=int, default=1000, help="number of samples of each way, for the distance")
parser.add_argument("--output", default="two_stage.png")
options = parser.parse_args()


def fitted(x, likelihood, seed):
    """A VAE trained on x."""
    keras.utils.set_random_seed(seed)
    networks = keras_vae.networks.mlp(x.shape[1:], options.latents, hidden=(256, 256), likelihood=likelihood)
    vae = keras_vae.VAE(*networks, likelihood=likelihood, seed=seed)
    vae.compile(keras.optimizers.Adam(1e-3), steps_per_execution=24)
    vae.fit(x, epochs=options.epochs, batch_size=64, verbose=0)
    return vae


def energy_distance(a, b):
    """2 E|a - b| - E|a - a'| - E|b - b'|, of pixels."""
    a, b = a.reshape(len(a), -1), b.reshape(len(b), -1)

    def apart(a, b):
        square = np.square(a).sum(axis=1)[:, None] + np.square(b).sum(axis=1) - 2.0 * a @ b.T
        return np.sqrt(np.maximum(square, 0.0)).sum()

    within = apart(a, a) / (len(a) * (len(a) - 1)) + apart(b, b) / (len(b) * (len(b) - 1))
    return 2.0 * apart(a, b) / (len(a) * len(b)) - within


data = keras_vae.datasets.load("digits")
vae = fitted(data.train, keras_vae.Gaussian(0.03), seed=0)
codes = vae.encode(data.train).sample(seed=0)
mixture = keras_vae.evaluation.fit_aggregate_posterior(vae, data.train)
kl = keras_vae.evaluation.elbo_surgery(vae, data.test)
print(
    f"{keras.backend.backend()}: KL {kl.kl:.1f} nats, {kl.marginal_kl:.1f} of them as the codes do not match the prior"
)

# The second stage is a VAE of the codes; the first VAE decodes its samples.
second = fitted(codes, keras_vae.Gaussian("learned"), seed=1)
two_stage = vae.decode(second.sample(options.samples, seed=0, draw=True))

samples = {
    "digits trained on": data.train[np.random.default_rng(0).permutation(len(data.train))[: options.samples]],
    "z from the prior": vae.sample(options.samples, seed=0),
    "z from a mixture": vae.sample(options.samples, seed=0, prior=mixture),
    "z from a second VAE": two_stage,
}
figure = Figure(figsize=(10.0, 3.1), layout="constrained")
for axes, (name, x) in zip(figure.subplots(1, len(samples)), samples.items(), strict=True):
    distance = energy_distance(x, data.test)
    print(f"{name:20} {distance:.3f} from held out digits")
    tiles = np.pad(x[:36, ..., 0], ((0, 0), (1, 1), (1, 1)), constant_values=0.4).reshape(6, 6, 10, 10)
    axes.imshow(np.block([list(row) for row in tiles]), cmap="gray", vmin=0.0, vmax=1.0)
    axes.set_title(f"{name}\ndistance {distance:.3f}", fontsize=9)
    axes.set_axis_off()
figure.savefig(options.output, dpi=120)
