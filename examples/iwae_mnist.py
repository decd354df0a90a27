r"""Importance weighted autoencoders on MNIST, binarised again for every minibatch: Burda et al. 2016.

    KERAS_BACKEND=jax python examples/iwae_mnist.py mnist --objective elbo
    KERAS_BACKEND=jax python examples/iwae_mnist.py mnist --objective iwae --num-samples 5
    KERAS_BACKEND=jax python examples/iwae_mnist.py mnist --objective iwae --num-samples 5 --layers 2

784-200-200-z50-200-200-784, and with two layers of latents 784-200-200-z100-100-100-z50-100-100-z100-200-200-784; tanh,
Adam with epsilon 1e-4, the output bias at the pixel means. `mnist` is the folder of the four idx files. The script
prints the ELBO, log p(x) and the active units for the first 2,000 test images, which are binarised once.

30 epochs are enough to rank the two objectives. The figures of the paper need a GPU:

    KERAS_BACKEND=jax python examples/iwae_mnist.py mnist --objective iwae --num-samples 50 \
        --schedule paper --checkpoint iwae50.keras --test-images 10000 --draws 5000

This trains 3,280 passes in 8 stages with batches of 20. It saves the whole model after every pass (`vae.save`: weights,
optimizer, noise). After an interruption the same command resumes, and gives the same numbers.

Reference: Burda, Grosse & Salakhutdinov 2016, arXiv:1509.00519, section 5 and table 1.
"""

import argparse
import pathlib

import keras
import numpy as np

import keras_vae
from keras_vae import networks, posteriors, priors

parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
parser.add_argument("data", help="folder of the four idx files")
parser.add_argument("--objective", choices=("elbo", "iwae"), default="iwae")
parser.add_argument("--num-samples", type=int, default=1, help="k of the paper, default 1")
parser.add_argument("--layers", type=int, choices=(1, 2), default=1, help="layers of latents")
parser.add_argument("--schedule", choices=("short", "paper"), default="short")
parser.add_argument("--epochs", type=int, default=30, help="passes of the short schedule")
parser.add_argument("--stages", type=int, default=8, help="stages of the paper's schedule; stage i has 3**i passes")
parser.add_argument("--checkpoint", type=pathlib.Path, help="a .keras file, written after every pass and resumed from")
parser.add_argument("--test-images", type=int, default=2000)
parser.add_argument("--draws", type=int, default=1000, help="samples of z per test image, for log p(x)")
options = parser.parse_args()


class Binarized(keras.utils.PyDataset):
    """Shuffled batches of pixels drawn with their grey value as the probability, drawn again in every epoch.

    The seed is the number of the epoch, so that a resumed run sees the same batches as an uninterrupted one.
    """

    def __init__(self, images, batch_size, epoch):
        super().__init__()
        self.images, self.batch_size = images, batch_size
        self.start(epoch)

    def start(self, epoch):
        self.epoch = epoch
        self.order = np.random.default_rng([1, epoch]).permutation(len(self.images))

    def on_epoch_end(self):
        self.start(self.epoch + 1)

    def __len__(self):
        return len(self.images) // self.batch_size

    def __getitem__(self, index):
        images = self.images[self.order[index * self.batch_size : (index + 1) * self.batch_size]]
        return binarize(images, seed=[2, self.epoch, index])


def binarize(images, seed):
    return (np.random.default_rng(seed).random(images.shape, dtype="float32") < images).astype("float32")


class Checkpoint(keras.callbacks.Callback):
    """Saves the model after every epoch; an interruption leaves the previous file intact."""

    def on_epoch_end(self, epoch, logs=None):
        unfinished = options.checkpoint.with_name("unfinished_" + options.checkpoint.name)
        self.model.save(unfinished)
        unfinished.replace(options.checkpoint)


if options.schedule == "paper":
    batch_size = 20
    rates = [0.001 * 10 ** (-stage / 7) for stage in range(options.stages) for _ in range(3**stage)]
else:
    batch_size = 100
    rates = [0.001] * options.epochs

data = keras_vae.datasets.load(options.data)
steps = len(data.train) // batch_size
keras.utils.set_random_seed(0)
if options.checkpoint and options.checkpoint.exists():
    vae = keras.saving.load_model(options.checkpoint)
    passes = int(vae.optimizer.iterations) // steps
    print(f"resuming {options.checkpoint} after {passes} passes")
else:
    if options.objective == "iwae":
        objective = keras_vae.IWAE(options.num_samples)
    else:
        objective = keras_vae.ELBO(num_samples=options.num_samples, kl="monte_carlo")
    encoder, decoder = networks.mlp(
        (28, 28, 1),
        latent_dim=50 if options.layers == 1 else 100,
        hidden=(200, 200),
        activation="tanh",
        data_mean=data.train.mean(axis=0),
    )
    posterior, prior = "normal", None
    if options.layers == 2:  # z is z1 and z2 side by side
        decoder = networks.of_first_latents(decoder, 150)
        posterior = posteriors.Hierarchical([networks.normal_mlp((100,), 50, (100, 100), "tanh")])
        prior = priors.Hierarchical([networks.normal_mlp((50,), 100, (100, 100), "tanh")])
    vae = keras_vae.VAE(encoder, decoder, "bce", objective, prior, seed=0, posterior=posterior)
    vae.compile(keras.optimizers.Adam(epsilon=1e-4))
    passes = 0
callbacks = [keras.callbacks.LearningRateScheduler(lambda epoch, rate: rates[epoch])]
callbacks += [Checkpoint()] if options.checkpoint else []
batches = Binarized(data.train, batch_size, passes)
vae.fit(batches, epochs=len(rates), initial_epoch=passes, shuffle=False, callbacks=callbacks, verbose=2)

test = binarize(data.test[: options.test_images], seed=0)
elbo = vae.elbo(test, num_samples=1, seed=0).mean()
found = keras_vae.evaluation.log_likelihood(vae, test, num_samples=options.draws)
active = keras_vae.evaluation.active_units(vae, test).sum()
print(
    f"{keras.backend.backend()} {vae.objective!r}, layers of latents: {options.layers}: test ELBO {elbo:.2f}, log p(x) "
    f"{found.mean:.2f} nats, Monte-Carlo error {found.mean_standard_error:.2f} ({options.draws} draws, {len(test)} "
    f"images); {active} active units"
)
