"""Inference on a trained model: NumPy in, NumPy out, any number of examples.

These are the verbs of `VAE` that Keras does not have. `keras.Model.predict` would do for one network with one input;
encoding, decoding and scoring take several arrays and return several, so a small loop over compiled functions serves
them all. Every draw comes from NumPy's generator: the same seed gives the same latents on every backend.
"""

import numpy as np
from keras import ops

from keras_vae import _checks, _train_step
from keras_vae.distributions import DiagonalNormal


class Inference:
    """Mixed into `VAE`, which has the networks, the likelihood, the prior and the functions of the bound."""

    def encode(self, x, batch_size=256):
        """q(z|x).

        Args:
            x: `(n, ...)` data.
            batch_size: Examples at a time.

        Returns:
            A `DiagonalNormal` of NumPy arrays, with `.mean` and `.log_var` of shape `(n, latent_dim)` and
            `.sample(seed=...)`, which gives the same numbers on every backend.
        """
        return DiagonalNormal(*self._in_batches(self._encode, self._checked(x), batch_size=batch_size))

    def decode(self, z, batch_size=256):
        """The mean of p(x|z): `(n, latent_dim)` to `(n, ...)`, NumPy."""
        z = _checks.to_numpy(z).astype("float32", copy=False)
        self._require_built()
        if z.ndim != 2 or z.shape[1] != self.latent_dim:
            raise ValueError(f"z must have shape (n, {self.latent_dim}); got {z.shape}.")
        return self._in_batches(self._decode, z, batch_size=batch_size)

    def reconstruct(self, x, sample=False, seed=None, batch_size=256):
        """The mean of p(x|z), at the posterior mean or at a sample of the posterior.

        Args:
            x: `(n, ...)` data.
            sample: If True, z is drawn from q(z|x).
            seed: An integer to draw the same z again, on any backend.
            batch_size: Examples at a time.

        Returns:
            `(n, ...)`, NumPy.
        """
        posterior = self.encode(x, batch_size)
        return self.decode(posterior.sample(seed=seed) if sample else posterior.mean, batch_size)

    def sample(self, n, seed=None, batch_size=256, draw=False):
        """New data, `(n, ...)`, NumPy: `n` draws of z from the prior, decoded.

        Args:
            n: How many.
            seed: An integer to draw the same again, on any backend.
            batch_size: Examples at a time.
            draw: If False, the mean of p(x|z) for each z, as pictures usually show; if True, a draw of x from it: a
                count is then a whole number, and a category is one.
        """
        self._require_built()
        z = self.prior.sample(_checks.whole_number("n", n), seed)
        if not draw:
            return self.decode(z, batch_size)
        parameters = self._in_batches(self.decoder_parameters, z, batch_size=batch_size)
        # Another noise than that of z.
        noise = None if seed is None else np.random.default_rng(np.random.SeedSequence(seed).spawn(1)[0])
        return self.likelihood.sample(parameters, noise)

    def interpolate(self, a, b, steps=10, path="linear"):
        """Data between two examples: the decoded path between their posterior means.

        Args:
            a, b: One example each, without the batch axis.
            steps: Points on the path, both ends included.
            path: "linear", or "spherical" along the great circle, on which the norm changes evenly: in many
                dimensions a straight line passes through norms that the prior hardly ever draws.

        Returns:
            `(steps, ...)`, NumPy.

        Reference: White 2016, Sampling Generative Networks, arXiv:1609.04468, section 2.1 (spherical).
        """
        a, b = _checks.to_numpy(a), _checks.to_numpy(b)
        if a.shape != b.shape:
            raise ValueError(f"a and b must be two examples of one shape; got {a.shape} and {b.shape}.")
        pair = np.stack([a, b])
        start, end = self.encode(pair).mean
        return self.decode(latent_path(start, end, steps, path))

    def elbo(self, x, num_samples=1, seed=None, batch_size=256):
        """The evidence lower bound of each example in nats, unweighted: higher is likelier.

        Args:
            x: `(n, ...)` data.
            num_samples: Samples of z per example that the expectation is averaged over.
            seed: An integer for the same noise again, on any backend.
            batch_size: Decoded examples at a time, counting samples.

        Returns:
            `(n,)` float32, NumPy.
        """
        x = self._checked(x)
        self.likelihood.validate(x, missing=self.allow_missing)
        _checks.whole_number("num_samples", num_samples)
        # As many images are decoded at a time as for one sample, and the noise is drawn as it is needed: the generator
        # gives the same numbers in one piece or in many.
        step = max(1, _checks.whole_number("batch_size", batch_size) // num_samples)
        generator = np.random.default_rng(seed)
        elbos = []
        for start in range(0, len(x), step):
            part = x[start : start + step]
            epsilon = generator.standard_normal((len(part), num_samples, self.latent_dim), dtype="float32")
            elbos.append(self._in_batches(self._elbo, part, epsilon, batch_size=step))
        return np.concatenate(elbos)

    def _require_built(self):
        if not self.built:
            raise ValueError("The model is not built yet: call it on data, or fit it, before decode() or sample().")

    def _checked(self, x):
        x = _checks.to_numpy(x)
        if not self.built:
            self.build((None, *x.shape[1:]))
        _checks.check_data(x, self.data_shape)
        return x

    def _encode(self, x):
        posterior = self.posterior(x)
        return posterior.mean, posterior.log_var

    def _decode(self, z, training=False):
        return self.likelihood.mean(self.decoder_parameters(z, training))

    def _elbo(self, x, epsilon):
        return -self.terms(x, ops.transpose(epsilon, (1, 0, 2))).negative_elbo

    def _log_weights(self, x, epsilon):
        return ops.transpose(self.log_weights(x, ops.transpose(epsilon, (1, 0, 2))))


class BatchedFunctions:
    """The inference functions of a model, compiled on first use.

    Not a Keras object, on purpose: what it holds must not be tracked, saved or counted as weights.
    """

    def __init__(self, model):
        self._model = model
        self._compiled = {}

    def clear(self):
        """Forgets what was compiled of networks that are no longer there."""
        self._compiled.clear()

    def __call__(self, function, *arrays, batch_size):
        """`function(*arrays)` in batches along the first axis.

        Args:
            function: A bound method of the model, from tensors to one tensor or a tuple of tensors.
            *arrays: NumPy arrays of equal length.
            batch_size: Examples at a time.

        Returns:
            A NumPy array or a tuple of them, of that length.
        """
        if function.__name__ not in self._compiled:
            self._compiled[function.__name__] = _train_step.compiled(self._model, function)
        run = self._compiled[function.__name__]
        _checks.whole_number("batch_size", batch_size)
        # At least one pass, so that no data give empty arrays of the right shape.
        starts = range(0, max(len(arrays[0]), 1), batch_size)
        batches = [run(*(array[start : start + batch_size] for array in arrays)) for start in starts]
        if not isinstance(batches[0], tuple | list):
            return np.concatenate([_checks.to_numpy(batch) for batch in batches])
        return tuple(np.concatenate([_checks.to_numpy(part) for part in parts]) for parts in zip(*batches, strict=True))


def latent_path(start, end, steps, path="linear"):
    """`(steps, latent_dim)` points from start to end, both `(latent_dim,)`; see `VAE.interpolate`."""
    steps = _checks.whole_number("steps, which counts both ends,", steps, least=2)
    t = np.linspace(0.0, 1.0, steps, dtype="float32")[:, None]
    if path == "linear":
        return (1.0 - t) * start + t * end
    if path != "spherical":
        raise ValueError(f'path must be "linear" or "spherical"; got {path!r}.')
    norms = np.linalg.norm(start), np.linalg.norm(end)
    cosine = np.dot(start, end) / max(norms[0] * norms[1], 1e-12)
    angle = np.arccos(np.clip(cosine, -1.0, 1.0))
    if np.sin(angle) < 1e-4:  # parallel: the great circle is the line, or no circle is greater than another
        return (1.0 - t) * start + t * end
    points = (np.sin((1.0 - t) * angle) * start + np.sin(t * angle) * end) / np.sin(angle)
    return points.astype("float32")
