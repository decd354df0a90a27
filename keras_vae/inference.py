"""Inference on a trained model: NumPy in, NumPy out, any number of examples.

These are the verbs of `VAE` that Keras does not have. `keras.Model.predict` would do for one network with one input;
encoding, decoding and scoring take several arrays and return several, so a small loop over compiled functions serves
them all. Every draw comes from NumPy's generator: the same seed gives the same latents on every backend.
"""

import functools
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_vae import _backend, _containers, likelihoods, validation
from keras_vae._numpy_posterior import NumpyPosterior
from keras_vae.data import count, with_condition
from keras_vae.distributions import OF_ARRAYS, DiagonalNormal
from keras_vae.distributions.base import standard_normal


class Inference:
    """Mixed into `VAE`, which has the networks, the likelihood, the prior and the functions of the bound."""

    def encode(self, x: Any, batch_size: int = 256, standardized: bool = False) -> Any:
        """q(z|x).

        Args:
            x: `(n, ...)` data; for a conditional model, here and below, `{"x": data, "condition": c}`. As in `fit`, an
                array, a list, a DataFrame or a sparse matrix, or batches: a `tf.data.Dataset`, a `DataLoader`, a
                `PyDataset` or a generator, of which no more than one is held in memory.
            batch_size: Number of examples at a time.
            standardized: Whether z is in standard deviations from the mean of all codes, as `latent_statistics` has
                them: what a second model of the codes wants. `decode(z, standardized=True)` undoes it.

        Returns:
            q(z|x) of NumPy arrays, with `.location`, `(n, *latent_shape)`, its mean or what stands for it, and
            `.sample(seed=...)`, which gives the same numbers on every backend. A `DiagonalNormal`, with `.mean` and
            `.log_var`, or a `NumpyPosterior`, with the encoder's `.outputs`, if the model has another posterior; of
            `posteriors.FSQ` its `.codes` are the numbers of the codes.
        """
        statistics = self._require_statistics() if standardized else None
        pieces = self._pieces(x, batch_size)
        found = _joined([self._batched(self._encode, *part, batch_size=batch_size) for part in pieces])
        if self._is_normal:
            mean, log_var = found
            if statistics is not None:
                mean, log_var = statistics.standardize(mean), log_var - 2.0 * np.log(statistics.std)
            return DiagonalNormal(mean, log_var, mean.ndim - 1)
        outputs = dict(zip(self.posterior_family.outputs, found, strict=True))
        return NumpyPosterior(self, outputs, batch_size, statistics)

    def _require_statistics(self):
        if self.latent_statistics is None:
            raise ValueError(
                "This model does not know the scale of its codes: set vae.latent_statistics = "
                "keras_vae.evaluation.latent_statistics(vae, x) first, with x of training."
            )
        if self.latent_statistics.mean.shape not in (self.latent_shape, self.latent_shape[-1:]):
            raise ValueError(
                f"latent_statistics is for z of shape {self.latent_statistics.mean.shape}, and this model's z has "
                f"{self.latent_shape}: measure it again, keras_vae.evaluation.latent_statistics(vae, x)."
            )
        return self.latent_statistics

    def decode(self, z: Any, batch_size: int = 256, condition: Any = None, standardized: bool = False) -> np.ndarray:
        """The mean of p(x|z): `(n, *latent_shape)` to `(n, ...)`, NumPy.

        Args:
            z: `(n, *latent_shape)` latents.
            batch_size: Number of examples at a time.
            condition: `(n, ...)`, or one for all; for a conditional model only.
            standardized: Whether z is as `encode(..., standardized=True)` gives it.
        """
        if standardized:
            z = self._require_statistics().restore(validation.to_numpy(z))
        return self._by_name(self._decoded(*self._checked_latents(z, condition), batch_size=batch_size))

    def _decoded(self, z, *condition, batch_size):
        if self.is_autoregressive:
            return self._step_by_step(z, *condition, value=self.likelihood.mean, batch_size=batch_size)
        return self._batched(self._decode_mean, z, *condition, batch_size=batch_size)

    def reconstruct(self, x: Any, sample: bool = False, seed: int | None = None, batch_size: int = 256) -> np.ndarray:
        """The mean of p(x|z), at the posterior's location or at a sample of the posterior.

        Args:
            x: `(n, ...)` data.
            sample: Whether z is drawn from q(z|x).
            seed: Seed for z, an integer; it draws the same z on every backend.
            batch_size: Number of examples at a time.

        Returns:
            `(n, ...)`, NumPy.
        """
        generator, found = np.random.default_rng(seed), []
        for part in self._pieces(x, batch_size):
            posterior = self.encode(self._joined_with_condition(*part), batch_size)
            z = posterior.sample(seed=generator) if sample else posterior.location
            decoded = self._decoded(np.asarray(z, "float32"), *part[1:], batch_size=batch_size)
            validation.check_sizes(decoded.shape[1:], part[0].shape[1:])
            found.append((decoded,))
        return self._by_name(_joined(found)[0])

    def sample(
        self,
        n: int,
        seed: int | None = None,
        batch_size: int = 256,
        draw: bool = False,
        condition: Any = None,
        prior: Any = None,
        latent_shape: Any = None,
    ) -> np.ndarray:
        """New data, `(n, ...)`, NumPy: `n` draws of z from the prior, decoded.

        Args:
            n: Number of examples.
            seed: Seed, an integer; it draws the same on every backend.
            batch_size: Number of examples at a time.
            draw: Whether x is drawn from p(x|z): a count is then a whole number, and a category is one. If False, the
                result is the mean of p(x|z) for each z, as pictures usually show.
            condition: `(n, ...)`, or one for all; for a conditional model only.
            prior: Distribution to draw z from instead of the model's prior: anything with `sample(n, seed)` that gives
                `(n, *latent_shape)`, such as what `evaluation.fit_aggregate_posterior` returns.
            latent_shape: Shape of each z, and with it the size of x, if the model leaves it free.
        """
        self._require_built()
        n = validation.whole_number("n", n)
        z = self._draw(n, seed, latent_shape, condition) if prior is None else prior.sample(n, seed)
        z, *condition = self._checked_latents(z, condition)
        if not draw:
            return self._by_name(self._decoded(z, *condition, batch_size=batch_size))
        # Another noise than that of z.
        noise = np.random.default_rng(None if seed is None else np.random.SeedSequence(seed).spawn(1)[0])
        return self._by_name(self._drawn(z, *condition, noise=noise, batch_size=batch_size))

    def _drawn(self, z, *condition, noise, batch_size, x=None):
        """Draws of x from p(x|z); what is there of `x` is what a decoder that follows the steps before goes on from."""
        if self.is_autoregressive:
            value = functools.partial(self.likelihood.sample, seed=noise)
            return self._step_by_step(z, *condition, value=value, batch_size=batch_size, x=x)
        parameters = self._batched(self._decode_parameters, z, *condition, batch_size=batch_size)
        return self.likelihood.sample(parameters, noise)

    def _draw(self, n, seed, latent_shape, condition):
        """`n` draws of z from the model's prior."""
        if latent_shape is not None and not validation.shape_matches(np.atleast_1d(latent_shape), self.latent_shape):
            raise ValueError(f"latent_shape is {latent_shape}, and this model's z has shape {self.latent_shape}.")
        if self.has_conditional_prior:
            self._refresh()
            return self._prior_of_each(self._condition_of_each(condition, n)).sample(seed=seed)
        prior = self.numpy_prior()
        if None not in self.latent_shape:
            return prior.sample(n, seed)
        if latent_shape is None:
            raise ValueError(
                f"This model's z has shape {self.latent_shape}, where None follows from the size of x: say how large, "
                f"latent_shape={tuple(size or 8 for size in self.latent_shape)} for instance."
            )
        return prior.from_noise(standard_normal((n, *latent_shape), seed, np.zeros(0)))

    def numpy_prior(self, condition: Any = None) -> Any:
        """p(z) as it is now, of NumPy arrays, with `sample` and `log_prob`.

        Args:
            condition: `(n, ...)`, or one; only a conditional prior, p(z|c), asks for it.

        Returns:
            A `DiagonalNormal`, a `Mixture`, or another whose methods run the model's own prior, as it then is. Of a
            conditional prior a `DiagonalNormal` of `(n, *latent_shape)`, or of `latent_shape` for one condition.
        """
        self._require_built()
        self._refresh()
        if self.has_conditional_prior:
            self._require_condition(condition)
            is_one = self._is_one(condition)
            rows = _each(lambda part: validation.to_numpy(part)[None], condition) if is_one else condition
            prior = self._prior_of_each(self._checked_condition(rows, count(rows)))
            return DiagonalNormal(prior.mean[0], prior.log_var[0], prior.event_ndim) if is_one else prior
        prior = self.prior_distribution()
        return prior.to_numpy() if type(prior) in OF_ARRAYS else self._numpy_prior

    def _prior_of_each(self, condition):
        """p(z|c) of each row of a condition."""
        mean, log_var = self._batched(self._prior_parameters, condition, batch_size=256)
        return DiagonalNormal(mean, log_var, len(self.latent_shape))

    def interpolate(self, a: Any, b: Any, steps: int = 10, path: str = "linear", condition: Any = None) -> np.ndarray:
        """Data between two examples: the decoded path between the locations of their posteriors.

        Args:
            a, b: One example each, without the batch axis.
            steps: Number of points on the path, both ends included.
            path: Path, "linear", or "spherical" along the great circle, on which the norm changes evenly: in many
                dimensions a straight line passes through norms that the prior hardly ever draws.
            condition: Condition of both examples, without the batch axis; for a conditional model only.

        Returns:
            `(steps, ...)`, NumPy.

        Reference: White 2016, Sampling Generative Networks, arXiv:1609.04468, section 2.1 (spherical).
        """
        if self._fields is not None:
            pair = {name: np.stack([a[name], b[name]]) for name in self._fields.parts}
            pair |= {name: np.stack([value, value]) for name, value in (condition or {}).items()}
        else:
            a, b = validation.to_numpy(a), validation.to_numpy(b)
            if a.shape != b.shape:
                raise ValueError(f"a and b must be two examples of one shape; got {a.shape} and {b.shape}.")
            pair = np.stack([a, b])
            if condition is not None:
                pair = with_condition(pair, np.stack([condition, condition]))
        start, end = self.encode(pair).location
        return self.decode(latent_path(start, end, steps, path), condition=condition)

    def elbo(
        self,
        x: Any,
        num_samples: int = 1,
        seed: int | None = None,
        batch_size: int = 256,
        per_dimension: bool = False,
    ) -> np.ndarray:
        """The evidence lower bound of each example in nats, unweighted: higher is likelier.

        Args:
            x: `(n, ...)` data.
            num_samples: Number of samples of z per example that the expectation is averaged over.
            seed: Seed for the noise, an integer; it draws the same noise on every backend.
            batch_size: Number of decoded examples at a time, counting samples.
            per_dimension: Whether the result is E_q log p(x_d|z) of each dimension d of x instead: where the bound is
                lost. Their sum, less the KL term, is the bound; a missing value has 0.

        Returns:
            `(n,)` float32, NumPy; like x if `per_dimension`.
        """
        if per_dimension:
            return self._by_name(self._over_noise(self._log_prob_terms, x, num_samples, seed, batch_size)[0])
        reconstruction, kl, _ = self._elbo_terms(x, num_samples, seed, batch_size)
        return -(reconstruction + kl)

    def _elbo_terms(self, x, num_samples, seed, batch_size):
        """The two terms that `elbo` is the sum of, with the sign changed, and the number of dimensions: `(n,)` each."""
        return self._over_noise(self._bound_terms, x, num_samples, seed, batch_size)

    def _over_noise(self, function, x, num_samples, seed, batch_size):
        """What a function of x, noise and the condition returns, a tuple, and the number of dimensions of each x."""
        validation.whole_number("num_samples", num_samples)
        # As many images are decoded at a time as for one sample, and the noise is drawn as it is needed: the generator
        # gives the same numbers in one piece or in many.
        step = max(1, validation.whole_number("batch_size", batch_size) // num_samples)
        generator, terms = np.random.default_rng(seed), []
        for part in self._pieces(x, step):
            self._validate(part[0])
            for start in range(0, len(part[0]), step):
                data, *condition = (array[start : start + step] for array in part)
                shape = (len(data), num_samples, *self.noise_shape(data.shape[1:]))
                epsilon = generator.standard_normal(shape, dtype="float32")
                found = self._batched(function, data, epsilon, *condition, batch_size=step)
                terms.append((*found, np.full(len(data), data[0].size)))
        return _joined(terms)

    def _require_built(self):
        if not self.built:
            raise ValueError("The model is not built yet: call it on data, or fit it, before decode() or sample().")

    def _pieces(self, x, rows):
        """The data in pieces of NumPy arrays, x and the condition if there is one; see `_containers.pieces`."""
        for piece in _containers.pieces(_containers.as_arrays(x), rows):
            was_built = self.built
            if was_built:
                self._refresh()  # a part may have been assigned a moment ago
            if self.likelihood.part_names:
                piece = keras.tree.map_structure(validation.to_numpy, piece)
            data, condition = self._split(piece)
            data = validation.to_numpy(data)
            if not was_built:
                self._refresh()
            validation.check_data(data, self.data_shape)
            if len(data):
                likelihoods.check_finite(data, missing=self.allow_missing)
            yield _present(data, self._checked_condition(condition, len(data)))

    def _checked_latents(self, z, condition):
        z = validation.to_numpy(z).astype("float32", copy=False)
        self._require_built()
        self._refresh()
        if z.ndim == 0 or not validation.shape_matches(z.shape[1:], self.latent_shape):
            raise ValueError(f"z must have shape (n, {', '.join(map(str, self.latent_shape))}); got {z.shape}.")
        return _present(z, self._condition_of_each(condition, len(z)))

    def _condition_of_each(self, condition, n):
        """The condition of `n` examples, checked, where one may be given for all of them."""
        if condition is not None and self._is_one(condition):
            condition = _each(lambda part: np.broadcast_to(validation.to_numpy(part), (n, *np.shape(part))), condition)
        return self._checked_condition(condition, n)

    def _is_one(self, condition):
        """Whether a condition is that of one example, without the batch axis."""
        if self._fields is None or not isinstance(condition, dict):
            return np.ndim(condition) == len(self.condition_shape or ())
        known = self._fields.given
        return all(np.ndim(part) == len(known.get(name, ())) for name, part in condition.items())

    # What is compiled: functions of tensors. Noise comes with the examples on its first axis, as all that is batched.

    @property
    def _is_normal(self):
        return issubclass(self.posterior_family.distribution_class, DiagonalNormal)

    def _encode(self, x, condition=None):
        if self._is_normal:
            posterior = self._posterior(x, False, condition)
            return posterior.mean, posterior.log_var
        return self.posterior_outputs(x, condition=condition)

    def _draw_posterior(self, noise, *outputs):
        """z, `(n, draws, *latent_shape)`, and log q(z|x) of each, of noise `(n, draws, *noise_shape)`."""
        posterior = self.posterior_family.distribution(outputs)
        z, log_prob = posterior.draw(ops.swapaxes(noise, 0, 1))
        return ops.swapaxes(z, 0, 1), ops.swapaxes(log_prob, 0, 1)

    def _prior_parameters(self, condition):
        prior = self.prior_distribution(condition)
        return prior.mean, prior.log_var

    def _decode_parameters(self, z, condition=None):
        return self.decoder_parameters(z, condition=condition)

    def _decode_mean(self, z, condition=None, training=False, x=None):
        return self.likelihood.mean(self._parameters_of(z, x, condition, training))

    def _bound_terms(self, x, noise, condition=None):
        terms = self.elbo_terms(x, ops.swapaxes(noise, 0, 1), condition)
        return terms.reconstruction, terms.kl

    def _log_prob_terms(self, x, noise, condition=None):
        return (self.log_prob_terms(x, ops.swapaxes(noise, 0, 1), condition),)

    def _batched_log_likelihood(self, z, x, condition=None):
        """log p(x|z), `(chains, n)`, of z `(chains, n, *latent_shape)`."""
        return self._log_likelihood(x, self._parameters_of(z, x, condition))

    def _batched_log_weights(self, x, noise, condition=None):
        return ops.transpose(self.log_weights(x, ops.swapaxes(noise, 0, 1), condition))


def _each(function, condition):
    """A function of an array, of a condition that is one, or of each tensor of a dict."""
    if isinstance(condition, dict):
        return {name: function(part) for name, part in condition.items()}
    return function(condition)


def _present(*arrays):
    return [array for array in arrays if array is not None]


def _joined(found):
    """Tuples of arrays, one for each piece of the data, as one tuple of arrays."""
    return found[0] if len(found) == 1 else tuple(np.concatenate(arrays) for arrays in zip(*found, strict=True))


class CompiledFunctions:
    """The inference functions of a model, compiled on first use and again when the model has changed.

    Not a Keras object, on purpose: what it holds must not be tracked, saved or counted as weights.
    """

    _MAX_FUNCTIONS = 32  # the oldest goes: a lambda that is made anew at each call must not fill the memory

    def __init__(self, model: Any):
        self._model = model
        self._compiled, self._version = {}, None

    def value_and_grad(self, function: Any) -> Any:
        """`function` of z and other arrays with its gradient with respect to z; see `_backend.value_and_grad`."""
        return self._get(_backend.value_and_grad, function)

    def __call__(self, function: Any, *arrays: Any, batch_size: int) -> Any:
        """`function(*arrays)` in batches along the first axis.

        Args:
            function: From tensors to one tensor or a tuple of tensors.
            *arrays: NumPy arrays of equal length.
            batch_size: Number of examples at a time.

        Returns:
            A NumPy array or a tuple of them, of that length.
        """
        run = self._get(_backend.compile, function)
        validation.whole_number("batch_size", batch_size)
        # At least one pass, so that no data give empty arrays of the right shape.
        starts = range(0, max(len(arrays[0]), 1), batch_size)
        traces = self._model._version.traces
        batches = [run(*(array[start : start + batch_size] for array in arrays)) for start in starts]
        if self._model._version.traces != traces:
            self._model._version.accept()
        if not isinstance(batches[0], tuple | list):
            return np.concatenate([validation.to_numpy(batch) for batch in batches])
        parts = zip(*batches, strict=True)
        return tuple(np.concatenate([validation.to_numpy(part) for part in batched]) for batched in parts)

    def _get(self, compile, function):
        version = self._model._version.current()
        if version != self._version:
            self._compiled.clear()
            self._version = version
        key = compile, function
        if key not in self._compiled:
            if len(self._compiled) == self._MAX_FUNCTIONS:
                del self._compiled[next(iter(self._compiled))]
            self._compiled[key] = compile(self._model, self._model._version.counted(function))
        return self._compiled[key]


def latent_path(start: np.ndarray, end: np.ndarray, steps: int, path: str = "linear") -> np.ndarray:
    """`(steps, *latent_shape)` points from start to end, both `latent_shape`; see `VAE.interpolate`."""
    steps = validation.whole_number("steps, which counts both ends,", steps, least=2)
    t = np.linspace(0.0, 1.0, steps, dtype="float32").reshape(-1, *[1] * start.ndim)
    if path == "linear":
        return (1.0 - t) * start + t * end
    if path != "spherical":
        raise ValueError(f'path must be "linear" or "spherical"; got {path!r}.')
    norms = np.linalg.norm(start), np.linalg.norm(end)
    cosine = np.vdot(start, end) / max(norms[0] * norms[1], 1e-12)
    angle = np.arccos(np.clip(cosine, -1.0, 1.0))
    if np.sin(angle) < 1e-4:  # parallel: the great circle is the line, or no circle is greater than another
        return (1.0 - t) * start + t * end
    points = (np.sin((1.0 - t) * angle) * start + np.sin(t * angle) * end) / np.sin(angle)
    return points.astype("float32")
