"""Runs in a process of its own on one backend: the same weights, noise and data for all of them.

python backend_worker.py FOLDER NAME OTHER...   one step of each model below; results and saved models into FOLDER/NAME,
                                                and values and gradients of what formulas.py names; says "written"
                                                and waits for a line; then loads what the other backends saved, with
                                                the results in FOLDER
"""

import pathlib
import sys

import keras
import numpy as np

import formulas
from keras_vae import ELBO, IWAE, VAE, Gaussian, Mixed, NegativeBinomial, evaluation, networks, priors, schedules


def models():
    """A dense model with a schedule and samples, a convolutional one with another likelihood, a table, and labels."""
    objective = ELBO(beta=schedules.Linear(4, start=0.5), num_samples=2)
    dense = VAE(*networks.mlp((5, 4, 1), 3, hidden=(7,), activation="tanh"), objective=objective, seed=1)
    pair = networks.conv((5, 4, 1), 2, filters=(3, 2), hidden=(4,), activation="gelu", likelihood="mse")
    groups = Mixed([(Gaussian("learned"), 1), (Gaussian("optimal"), 1), (NegativeBinomial(), 1), ("bernoulli", 1)])
    table = VAE(*networks.mlp((5, 4), 2, hidden=(6,), likelihood=groups), groups, IWAE(3), seed=3, allow_missing=True)
    conditional, prior = networks.mlp((5, 4, 1), 2, hidden=(6,), condition=3), priors.GaussianMixture(4, seed=0)
    labels = VAE(*conditional, objective=IWAE(3, "dreg"), prior=prior, seed=4)
    return {"dense": dense, "conv": VAE(*pair, likelihood=Gaussian(0.5), seed=2), "table": table, "labels": labels}


def data_of(vae, x):
    """x with its labels, if the model takes any."""
    return x if vae.condition_shape is None else {"x": x, "condition": np.arange(len(x)) % 3}


def fixed(vae, seed):
    """Gives the model weights and noise that do not depend on the backend, and returns data."""
    rng = np.random.default_rng(seed)
    vae.set_weights([w if w.ndim == 0 else rng.normal(scale=0.3, size=w.shape) for w in vae.get_weights()])
    epsilon = rng.normal(size=(vae.objective.num_samples, 9, vae.latent_dim)).astype("float32")
    vae.noise = lambda batch: keras.ops.convert_to_tensor(epsilon)
    x = (rng.random((9, *vae.data_shape)) < 0.3).astype("float32")
    return np.where(rng.random(x.shape) < 0.2, np.nan, x).astype("float32") if vae.allow_missing else x


def describe(vae, x):
    """What must be equal on every backend, and in a model that was saved on another."""
    x, condition = data_of(vae, x), None if vae.condition_shape is None else 1
    posterior = vae.encode(x)
    return {
        "mean": posterior.mean,
        "log_var": posterior.log_var,
        "sample": vae.sample(4, seed=3, condition=condition),
        "elbo": vae.elbo(x, num_samples=3, seed=3),
        "step": np.asarray(int(vae.training_step.value)),
    }


def describe_further(vae, x):
    """What must be equal on every backend."""
    x, condition = data_of(vae, x), None if vae.condition_shape is None else 1
    return {
        "posterior_sample": vae.encode(x).sample(seed=3),
        "reconstruction": vae.reconstruct(x),
        "log_likelihood": evaluation.log_likelihood(vae, x, num_samples=20, seed=3).log_likelihood,
        "draw": vae.sample(4, seed=3, draw=True, condition=condition),
    }


def write(folder):
    folder.mkdir()
    for name, vae in models().items():
        x = fixed(vae, seed=len(name))
        vae.compile(keras.optimizers.SGD(1.0))
        before = [w for w in vae.get_weights() if w.ndim]
        logs = vae.train_on_batch(data_of(vae, x), return_dict=True)
        after = [w for w in vae.get_weights() if w.ndim]
        gradients = {f"gradient_{i}": a - b for i, (a, b) in enumerate(zip(before, after, strict=True))}
        fixed(vae, seed=len(name))
        annealed = evaluation.annealed_log_likelihood(vae, data_of(vae, x), chains=2, steps=4, leapfrog=2, seed=3)
        logs["annealed"] = annealed.log_likelihood
        np.savez(folder / f"{name}-step.npz", **{k: np.asarray(v) for k, v in logs.items()}, **gradients)
        np.savez(folder / f"{name}.npz", x=x, **describe(vae, x), **describe_further(vae, x))
        vae.save(folder / f"{name}.keras")
    np.savez(folder / "mathematics.npz", **formulas.table())


def read(folder, *writers):
    for writer in writers:
        for name in models():
            with np.load(folder / writer / f"{name}.npz") as written:
                x = written["x"]
            vae = keras.saving.load_model(folder / writer / f"{name}.keras")
            reader = keras.backend.backend()
            np.savez(folder / f"{name}-{writer}-read-by-{reader}.npz", **describe(vae, x))


if __name__ == "__main__":
    root, own, *others = sys.argv[1:]
    write(pathlib.Path(root, own))
    print("written", flush=True)
    sys.stdin.readline()
    read(pathlib.Path(root), *others)
