"""Inference on a trained model: NumPy in, NumPy out, any number of examples.

These are the verbs of `VAE` that Keras does not have. `keras.Model.predict` would do for one network with one input;
encoding, decoding and scoring take several arrays and return several, so a small loop over compiled functions serves
them all. Every draw comes from NumPy's generator: the same seed gives the same latents on every backend.
"""

import numpy as np
from keras import ops

from keras_vae import _checks, _train_step
from keras_vae._conditions import split_condition
from keras_vae.distributions import DiagonalNormal


class Inference:
    """Mixed into `VAE`, which has the networks, the likelihood, the prior and the functions of the bound."""

    def encode(self, x, batch_size=256):
        """q(z|x).

        Args:
            x: `(n, ...)` data; of a conditional model, here and below, `{"x": data, "condition": c}`.
            batch_size: Examples at a time.

        Returns:
            A `DiagonalNormal` of NumPy arrays, with `.mean` and `.log_var` of shape `(n, latent_dim)` and
            `.sample(seed=...)`, which gives the same numbers on every backend.
        """
        return DiagonalNormal(*self._in_batches(self._encode, *self._checked(x), batch_size=batch_size))

    def decode(self, z, batch_size=256, condition=None):
        """The mean of p(x|z): `(n, latent_dim)` to `(n, ...)`, NumPy.

        Args:
            z: Latents.
            batch_size: Examples at a time.
            condition: Of a conditional model: `(n, ...)`, or one for all.
        """
        return self._in_batches(self._decode, *self._checked_latents(z, condition), batch_size=batch_size)

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
        _, *condition = self._checked(x)
        posterior = self.encode(x, batch_size)
        return self.decode(posterior.sample(seed=seed) if sample else posterior.mean, batch_size, *condition)

    def sample(self, n, seed=None, batch_size=256, draw=False, condition=None, prior=None):
        """New data, `(n, ...)`, NumPy: `n` draws of z from the prior, decoded.

        Args:
            n: How many.
            seed: An integer to draw the same again, on any backend.
            batch_size: Examples at a time.
            draw: If False, the mean of p(x|z) for each z, as pictures usually show; if True, a draw of x from it: a
                count is then a whole number, and a category is one.
            condition: Of a conditional model: `(n, ...)`, or one for all.
            prior: Where to draw z from instead of the model's prior: anything with `sample(n, seed)` that gives
                `(n, latent_dim)`, such as what `evaluation.fit_aggregate_posterior` returns.
        """
        self._require_built()
        prior = self.numpy_prior() if prior is None else prior
        z, *condition = self._checked_latents(prior.sample(_checks.whole_number("n", n), seed), condition)
        if not draw:
            return self._in_batches(self._decode, z, *condition, batch_size=batch_size)
        parameters = self._in_batches(self._decoded, z, *condition, batch_size=batch_size)
        # Another noise than that of z.
        noise = None if seed is None else np.random.default_rng(np.random.SeedSequence(seed).spawn(1)[0])
        return self.likelihood.sample(parameters, noise)

    def numpy_prior(self):
        """p(z) as it is now, of NumPy arrays: a `DiagonalNormal` or a `Mixture`, with `sample` and `log_prob`."""
        self._require_built()
        return self.prior_distribution().to_numpy()

    def interpolate(self, a, b, steps=10, path="linear", condition=None):
        """Data between two examples: the decoded path between their posterior means.

        Args:
            a, b: One example each, without the batch axis.
            steps: Points on the path, both ends included.
            path: "linear", or "spherical" along the great circle, on which the norm changes evenly: in many
                dimensions a straight line passes through norms that the prior hardly ever draws.
            condition: Of a conditional model: that of both examples, without the batch axis.

        Returns:
            `(steps, ...)`, NumPy.

        Reference: White 2016, Sampling Generative Networks, arXiv:1609.04468, section 2.1 (spherical).
        """
        a, b = _checks.to_numpy(a), _checks.to_numpy(b)
        if a.shape != b.shape:
            raise ValueError(f"a and b must be two examples of one shape; got {a.shape} and {b.shape}.")
        pair = np.stack([a, b])
        if condition is not None:
            pair = {"x": pair, "condition": np.stack([condition, condition])}
        start, end = self.encode(pair).mean
        return self.decode(latent_path(start, end, steps, path), condition=condition)

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
        reconstruction, kl = self._elbo_terms(x, num_samples, seed, batch_size)
        return -(reconstruction + kl)

    def _elbo_terms(self, x, num_samples, seed, batch_size):
        """The two terms that `elbo` is the sum of, with the sign changed: two arrays `(n,)`."""
        x, *condition = self._checked(x)
        self.likelihood.validate(x, missing=self.allow_missing)
        _checks.whole_number("num_samples", num_samples)
        # As many images are decoded at a time as for one sample, and the noise is drawn as it is needed: the generator
        # gives the same numbers in one piece or in many.
        step = max(1, _checks.whole_number("batch_size", batch_size) // num_samples)
        generator = np.random.default_rng(seed)
        terms = []
        for start in range(0, len(x), step):
            part = x[start : start + step]
            epsilon = generator.standard_normal((len(part), num_samples, self.latent_dim), dtype="float32")
            given = [each[start : start + step] for each in condition]
            terms.append(self._in_batches(self._elbo, part, epsilon, *given, batch_size=step))
        return [np.concatenate(term) for term in zip(*terms, strict=True)]

    def _require_built(self):
        if not self.built:
            raise ValueError("The model is not built yet: call it on data, or fit it, before decode() or sample().")

    def _checked(self, x):
        """The data as NumPy arrays: x and, of a conditional model, the condition."""
        x, condition = split_condition(x)
        x = _checks.to_numpy(x)
        self.build_for(x, condition)
        _checks.check_data(x, self.data_shape)
        return _present(x, self.checked_condition(condition, len(x)))

    def _checked_latents(self, z, condition):
        z = _checks.to_numpy(z).astype("float32", copy=False)
        self._require_built()
        if z.ndim != 2 or z.shape[1] != self.latent_dim:
            raise ValueError(f"z must have shape (n, {self.latent_dim}); got {z.shape}.")
        if condition is not None and np.ndim(condition) == len(self.condition_shape or ()):
            condition = np.broadcast_to(_checks.to_numpy(condition), (len(z), *np.shape(condition)))
        return _present(z, self.checked_condition(condition, len(z)))

    def _encode(self, x, condition=None):
        posterior = self.posterior(x, condition=condition)
        return posterior.mean, posterior.log_var

    def _decoded(self, z, condition=None):
        return self.decoder_parameters(z, condition=condition)

    def _decode(self, z, condition=None):
        return self._mean_of(z, condition)

    def _mean_of(self, z, condition, training=False):
        return self.likelihood.mean(self.decoder_parameters(z, training, condition))

    def _elbo(self, x, epsilon, condition=None):
        terms = self.elbo_terms(x, ops.transpose(epsilon, (1, 0, 2)), condition)
        return terms.reconstruction, terms.kl

    def _log_likelihood_at(self, z, x, condition=None):
        """log p(x|z), `(chains, n)`, of z `(chains, n, latent_dim)`."""
        return self._log_likelihood(x, self.decoder_parameters(z, condition=condition))

    def _log_weights(self, x, epsilon, condition=None):
        return ops.transpose(self.log_weights(x, ops.transpose(epsilon, (1, 0, 2)), condition))


def _present(*arrays):
    return [array for array in arrays if array is not None]


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

    def gradient(self, function):
        """`function` of z and other arrays with its gradient with respect to z; see `_train_step.compiled_gradient`."""
        return self._made(_train_step.compiled_gradient, function)

    def _made(self, compile, function):
        """What `compile`, of `_train_step`, makes of a bound method of the model, made once."""
        key = compile.__name__, function.__name__
        if key not in self._compiled:
            self._compiled[key] = compile(self._model, function)
        return self._compiled[key]

    def __call__(self, function, *arrays, batch_size):
        """`function(*arrays)` in batches along the first axis.

        Args:
            function: A bound method of the model, from tensors to one tensor or a tuple of tensors.
            *arrays: NumPy arrays of equal length.
            batch_size: Examples at a time.

        Returns:
            A NumPy array or a tuple of them, of that length.
        """
        run = self._made(_train_step.compiled, function)
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
