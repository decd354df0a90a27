"""A conditional VAE: samples of a chosen class, and the accuracy of a classifier on them.

    KERAS_BACKEND=jax python examples/conditional_fashion_mnist.py fashion_mnist [--epochs 20]
    KERAS_BACKEND=jax python examples/conditional_fashion_mnist.py digits --epochs 100

`fashion_mnist` is the folder of the four idx files, images and labels; the digits are embedded. Both networks see the
label, so that z only needs to hold the rest. 400-400-z16, ReLU, Adam 1e-3, batch 100. The script writes a picture with
a row of samples for each class. A classifier that was trained on real images only then predicts the class of the
samples; the script prints its accuracy on them and on real test images.

The pixels are drawn once with their grey value as the probability, and the likelihood is the Bernoulli. Grey pixels
with `--likelihood continuous_bernoulli` give far worse samples: that density fits every pixel so closely that the
latents hold six times the nats, and the codes lie where N(0, I) has little mass. `--prior` has other densities of them:
"conditional", p(z|c) with mean and variance by the class, which is trained with the model; "fitted", a mixture of ten
normals for each class, fitted to its codes afterwards.

Reference: Kingma et al. 2014, arXiv:1406.5298; Sohn et al. 2015, Learning Structured Output Representation using Deep
Conditional Generative Models.
"""

import argparse
import csv
import pathlib

import keras
import numpy as np

import keras_vae

parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
parser.add_argument("data", nargs="?", default="digits", help="folder of the four idx files, or digits")
parser.add_argument("--epochs", type=int, default=20)
parser.add_argument("--likelihood", choices=("bernoulli", "continuous_bernoulli"), default="bernoulli")
parser.add_argument("--prior", choices=("normal", "conditional", "fitted"), default="normal")
parser.add_argument("--samples", type=int, default=1000, help="number of samples of each class, for the accuracy")
parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("conditional.png"))
options = parser.parse_args()

is_grey = options.likelihood == "continuous_bernoulli"
real = keras_vae.datasets.load(options.data)
data = real if is_grey else keras_vae.datasets.load(options.data, binarize="sample")
if data.train_labels is None or data.test_labels is None:
    raise SystemExit(f"{options.data} has no labels: put train-labels and t10k-labels beside the images.")
train = {"x": data.train, "condition": data.train_labels.astype("int32")}
test = {"x": data.test, "condition": data.test_labels.astype("int32")}
classes = int(train["condition"].max()) + 1
steps_per_execution = max(1, min(50, len(data.train) // 100))

keras.utils.set_random_seed(0)
likelihood = keras_vae.ContinuousBernoulli() if is_grey else keras_vae.Bernoulli()
encoder, decoder = keras_vae.networks.mlp(
    data.train.shape[1:],
    latent_dim=16,
    hidden=(400, 400),
    likelihood=likelihood,
    condition=classes,
    data_mean=data.train.mean(axis=0).clip(0.01, 0.99),
)
prior = None
if options.prior == "conditional":
    prior = keras_vae.priors.Conditional(keras_vae.networks.normal_mlp(classes, 16, hidden=(64,)))
vae = keras_vae.VAE(encoder, decoder, likelihood, prior=prior, seed=0)
vae.compile(keras.optimizers.Adam(1e-3), steps_per_execution=steps_per_execution)
vae.fit(train, batch_size=100, epochs=options.epochs, verbose=2)

classifier = keras.Sequential(
    [
        keras.layers.Flatten(),
        keras.layers.Dense(256, activation="relu"),
        keras.layers.Dropout(0.2),
        keras.layers.Dense(classes),
    ]
)
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
several = keras.backend.backend() != "torch"  # where a plain Keras model takes one step at a time
classifier.compile(keras.optimizers.Adam(1e-3), loss, steps_per_execution=steps_per_execution if several else 1)
classifier.fit(real.train, train["condition"], batch_size=100, epochs=options.epochs, verbose=0)


def accuracies(x, labels):
    """Accuracy of the classifier over all images, then for each class."""
    correct = classifier.predict(x, batch_size=500, verbose=0).argmax(axis=1) == labels
    return np.array([correct.mean(), *(correct[labels == label].mean() for label in range(classes))])


class OfEachClass:
    """What `sample` draws z from: for each label from the mixture of its class."""

    def __init__(self, mixtures, labels):
        self.mixtures, self.labels = mixtures, labels

    def sample(self, n, seed):
        z = np.stack([mixture.sample(n, seed=seed) for mixture in self.mixtures])
        return z[self.labels, np.arange(n)]


mixtures = None
if options.prior == "fitted":
    of_class = [{name: part[train["condition"] == label] for name, part in train.items()} for label in range(classes)]
    mixtures = [keras_vae.evaluation.fit_aggregate_posterior(vae, each) for each in of_class]


def prior_of(labels):
    return None if mixtures is None else OfEachClass(mixtures, labels)


labels = np.repeat(np.arange(classes), options.samples)
samples = vae.sample(len(labels), seed=0, condition=labels, prior=prior_of(labels))
of_real, of_samples = accuracies(real.test, test["condition"]), accuracies(samples, labels)
bound = keras_vae.evaluation.held_out(vae, test, num_samples=1)
print(
    f"{keras.backend.backend()}, {options.epochs} epochs; test ELBO {-bound['negative_elbo']:.1f} nats, of which KL "
    f"{bound['kl']:.1f}"
)
print(f"the classifier is right for {100 * of_real[0]:.1f} % of test images, {100 * of_samples[0]:.1f} % of samples")
for label in range(classes):
    print(f"class {label}: real {100 * of_real[1 + label]:.1f} %, samples {100 * of_samples[1 + label]:.1f} %")
with open(options.output.with_suffix(".csv"), "w", newline="") as file:
    writer = csv.writer(file)
    writer.writerow(["class", "accuracy_real", "accuracy_samples"])
    writer.writerows(zip(["all", *range(classes)], of_real, of_samples, strict=True))
columns = 12
rows = np.repeat(np.arange(classes), columns)
figure = keras_vae.plotting.samples(vae, len(rows), columns=columns, seed=1, condition=rows, prior=prior_of(rows))
figure.savefig(options.output, dpi=100)
