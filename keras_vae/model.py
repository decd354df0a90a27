"""The variational autoencoder as a Keras model.

`VAE` holds an encoder, a decoder, a likelihood, a posterior, a prior and an objective: here are their mathematics and
how they are built. What a part must have and how it is saved is in `_parts.py`, Keras's verbs are in `training.py`,
those of inference in `inference.py`.
"""

import math
from typing import Any, Unpack

import keras
from keras import ops

from keras_vae import _backend, likelihoods, objectives, posteriors, priors, validation
from keras_vae._latent_statistics import LatentStatistics
from keras_vae._model_inputs import ModelInputs
from keras_vae._network_inputs import as_input
from keras_vae._numpy_prior import NumpyPrior
from keras_vae._parts import Parts
from keras_vae._seeds import SavesSeeds, decorrelate
from keras_vae._typing import Model, ModelOptions
from keras_vae._versions import Version
from keras_vae.autoregressive import Autoregressive, check_steps
from keras_vae.data import Batch
from keras_vae.distributions import DiagonalNormal, Mixture
from keras_vae.imputation import Imputation
from keras_vae.inference import CompiledFunctions, Inference
from keras_vae.training import Trackers, Trainer


@keras.saving.register_keras_serializable(package="keras_vae")
class VAE(Trainer, Inference, Imputation, Autoregressive, ModelInputs, Parts, SavesSeeds, Model):  # pyright: ignore[reportIncompatibleMethodOverride]
    """A variational autoencoder: maximises a lower bound of log p(x) with `fit`.

        log p(x) >= E_q [log p(x|z)] - KL(q(z|x) || p(z))

    z has any shape: that of what the encoder returns.

    The logs of `fit` and `evaluate` are in nats per example, exact weighted means over the examples seen: `loss`
    (what is minimised), `reconstruction` (-E_q log p(x|z)), `kl` (in closed form; averaged over the samples of z where
    none is known, as for a mixture), `negative_elbo` (`reconstruction` + `kl`, independent of `beta`: the one to
    watch), what the objective adds (`beta` while a schedule runs), and the metrics of `compile`, which compare the
    target with the reconstruction through the posterior mean, as `predict` gives it.

    A conditional model has networks with another input, called "condition": labels, or any tensor. Its data are dicts,
    `{"x": x, "condition": c}`, in `fit` and wherever a method says "data"; `decode` and `sample` take `condition=c`.
    Every probability is then one given the condition. So is the prior's if it is a `priors.Conditional`, which makes
    a model conditional too.

    Data of several tensors are dicts of them, by any names. Those that have a likelihood are modelled, as with
    `likelihood={"image": Bernoulli(), "label": Categorical(10)}` (a `likelihoods.Joint`); the others are given, as a
    condition is. Networks take them by the names of their inputs, the decoder returns a dict of the parameters of each
    part, and what is shaped like the data comes back as a dict. The logs have `reconstruction_image` and so on.

    Encoder, decoder, likelihood, objective and prior may be assigned anew at any time; what was compiled for others is
    compiled again at its next use.

    `sample_weight` means what it means in Keras: the loss minimised is the sum of weight times loss over the number
    of examples; the logs are divided by the sum of the weights, so an example of weight 0 does not count.

    Args:
        encoder: Keras model or layer from x to what the posterior is made of. For "normal" the mean and log variance
            of q(z|x), two tensors `(batch, *latent_shape)`, such as `(batch, 16)` or `(batch, 8, 8, 4)`: as a pair, or
            as a dict with keys `z_mean` and `z_log_var` (or `mean`, `log_var`).
        decoder: Keras model or layer from z, `(batch, *latent_shape)`, to the parameters of the likelihood: the shape
            of the data, with `likelihood.parameter_channels` channels. In a conditional model either or both have an
            input of the name "condition"; a network whose inputs are not known is called with
            `{"x": x, "condition": c}`, or "z" in place of "x". With an input "previous", shaped like x, it follows the
            steps before each step of a sequence: `networks.recurrent(..., autoregressive=True)`.
        likelihood: p(x|z): "bce" (= "bernoulli", the decoder gives logits), "mse" (= "gaussian", scale 1), another name
            or a `Likelihood`, such as `Gaussian("learned")`; a dict of these for named parts.
        objective: Bound that is maximised: "elbo", "iwae" or an `Objective` such as `ELBO(beta=4.0)`.
        prior: p(z): a `Prior` of `keras_vae.priors`, which learns, such as `VampPrior(500)`; a `DiagonalNormal` or a
            `Mixture` over the latent dimensions, which stays as it is; None is the posterior's usual one, N(0, I).
        seed: Seed for reproducible noise, an integer, or None.
        allow_missing: Whether NaN in the data means a missing value: the encoder then sees 0 in its place
            (or what the likelihood's `fill_missing` says), and the reconstruction term leaves it out, so that the bound
            is one of log p(observed values). Else NaN is refused. An encoder that has an input "observed" is shown
            which values are: `networks.mlp(..., show_missing=True)`.
        posterior: q(z|x): "normal", independent dimensions; "full", any covariance; or another `Posterior` of
            `keras_vae.posteriors`, such as `Flow()` or `FSQ(levels)`.

    Raises:
        ValueError: If the encoder, the decoder and the likelihood do not fit together. At once where the encoder
            knows its input shape, else when the first data come.

    Example:

    >>> encoder, decoder = keras_vae.networks.mlp((28, 28, 1), latent_dim=8)
    >>> vae = keras_vae.VAE(encoder, decoder, likelihood="bce")
    >>> vae.compile("adam")
    >>> vae.fit(images, epochs=10)

    Reference: Kingma & Welling 2014, Auto-Encoding Variational Bayes, arXiv:1312.6114; Nazabal et al. 2020,
    arXiv:1807.03653, and Mattei & Frellsen 2019, arXiv:1812.02633 (missing values).
    """

    def __init__(
        self,
        encoder: Any,
        decoder: Any,
        likelihood: str | likelihoods.Likelihood = "bce",
        objective: str | objectives.Objective = "elbo",
        prior: priors.Prior | DiagonalNormal | Mixture | None = None,
        seed: int | None = None,
        allow_missing: bool = False,
        *,
        posterior: str | posteriors.Posterior = "normal",
        **kwargs: Unpack[ModelOptions],
    ):
        if "beta" in kwargs:
            raise TypeError("beta belongs to the objective: VAE(..., objective=keras_vae.ELBO(beta=4.0)).")
        # Autocasting is off: in bfloat16 the float label 301 becomes 302.
        super().__init__(**{"autocast": False, **kwargs})
        validation.check_compute_loss(type(self))
        validation.check_train_step(type(self))
        self._version = Version(self)
        self._trackers = Trackers(self)
        self._batched = CompiledFunctions(self)
        self._numpy_prior = NumpyPrior(self)
        self._device_data = _backend.DeviceData()
        self.data_on_device: str | bool = "auto"
        self._has_compiled_metrics = False

        self.encoder = encoder
        self.decoder = decoder
        self.likelihood: Any = likelihood
        self.posterior_family: Any = posterior
        self.objective: Any = objective
        self.prior: Any = prior  # not None, once built
        self.allow_missing = bool(allow_missing)
        self.latent_statistics: LatentStatistics | None = None  # of `evaluation.latent_statistics`
        self._standard_prior: Any = None  # the prior that the model made itself, for the latents that it had then
        self._shapes: Any = None  # of one example, of its condition (or None) and of one z, once built

        self._seed = seed
        self.seed_generator = keras.random.SeedGenerator(decorrelate(seed))
        # "int" is int64 on TensorFlow, whose int32 variables cannot live on a GPU, and int32 elsewhere.
        self.training_step = self.add_weight(
            name="training_step", shape=(), dtype="int", initializer="zeros", trainable=False
        )
        input_shape = self._known_input_shape()
        if input_shape is not None:
            # Not `build`, after which Keras lets no subclass add its own weights.
            self._build_parts(input_shape)
            self.built = True

    def build(self, input_shape: Any) -> None:
        """Builds encoder and decoder for data of `input_shape`, and checks that they fit together.

        Args:
            input_shape: `(batch, ...)`; for a conditional model a dict of two such shapes, "x" and "condition".
        """
        self._build_parts(input_shape)
        self.built = True

    def _build_parts(self, input_shape):
        input_shape, condition_shape = self._input_shapes(input_shape)
        data_shape = tuple(input_shape[1:])
        x = keras.KerasTensor((None, *data_shape), dtype=self.x_dtype)
        condition = None
        if condition_shape is not None:
            condition_shape = tuple(condition_shape[1:])
            condition = keras.KerasTensor((None, *condition_shape), dtype=self.condition_dtype)
        validation.check_posterior(type(self), VAE, self._is_normal)
        outputs = self._encoder_outputs(x, condition)
        latent_shape = self.posterior_family.latent_shape(outputs)
        shapes = tuple(tuple(output.shape[1:]) for output in self.posterior_family.read(outputs))
        self.posterior_family.bind(latent_shape, shapes)
        validation.check_latents(self.decoder, latent_shape)
        z = keras.KerasTensor((None, *latent_shape), dtype=self.compute_dtype)
        self.likelihood.bind(data_shape[-1] if data_shape else None)
        check_steps(self.decoder, data_shape, self.likelihood)
        parameters = self._decoder_outputs(z, condition, x=x)
        validation.check_decoder(parameters, data_shape, self.likelihood)
        validation.check_last_activation(self.decoder, self.likelihood)
        if self.prior is None or self.prior is self._standard_prior:
            self.prior = self._standard_prior = self.posterior_family.usual_prior(latent_shape)
        priors.check(self.prior, latent_shape)
        posteriors.check_prior(self.posterior_family, self.prior)
        if isinstance(self.prior, priors.Prior):
            given = condition_shape if self._takes_condition(self.encoder) else None
            dtype, posterior = self.x_dtype, self.posterior_family.distribution_class
            spec = priors.DataSpec(data_shape, dtype, self.likelihood.data_range, given, posterior)
            self.prior.bind(latent_shape, spec)
        prior = getattr(self.prior, "distribution_class", type(self.prior))
        self.objective.check(self.posterior_family.distribution_class, prior)
        self._shapes = data_shape, condition_shape, latent_shape
        self._build_networks_of_parts(x, condition, parameters)

    def _refresh(self):
        """Checks anew that the parts fit together if one of them has changed; returns the model's version."""
        self._sync_variables()
        version = self._version.current()
        if version != self._version.checked:
            if self.built:
                self._build_parts(self._known_input_shape() or self._built_input_shape())
                self._check_causal()
            self._trackers.metrics  # noqa: B018 # makes them: none may be made inside a step
            self._version.accept()
            self._version.checked = version
        return version

    @property
    def data_shape(self) -> Any:
        """Shape of one example; None before the model is built."""
        return self._shapes and self._shapes[0]

    @property
    def condition_shape(self) -> Any:
        """Shape of the condition of one example; None without one, and before the model is built."""
        return self._shapes and self._shapes[1]

    @property
    def latent_shape(self) -> Any:
        """Shape of one z, in which None is a size that follows from that of x; None before the model is built."""
        return self._shapes and self._shapes[2]

    @property
    def latent_dim(self) -> Any:
        """Number of elements of one z; None before the model is built, and where a size is free."""
        return None if self._shapes is None or None in self.latent_shape else math.prod(self.latent_shape)

    @property
    def seed(self) -> int | None:
        """Seed that the model was made with; the state of its noise is in `seed_generator`."""
        return self._seed

    def posterior(self, x: Any, training: bool = False, condition: Any = None) -> Any:
        """q(z|x) for a batch of tensors, of the `distribution_class` of `posterior_family`, in float32.

        A subclass may change it: every verb, evaluation and an exported bundle are then of that posterior.
        """
        return self.posterior_family.distribution(self.posterior_outputs(x, training, condition), training)

    def posterior_outputs(self, x: Any, training: bool = False, condition: Any = None) -> tuple[Any, ...]:
        """What the encoder returns, of which `posterior_family` makes q(z|x), in the order of its `outputs`."""
        x, condition = as_input(x, self.x_dtype), self._as_condition(condition, self.encoder)
        filled = x
        if self.allow_missing and "float" in keras.backend.standardize_dtype(x.dtype):  # an integer is never missing
            filled = self.likelihood.fill_missing(x)
        return self.posterior_family.read(self._encoder_outputs(filled, condition, training, x))

    def prior_distribution(self, condition: Any = None) -> Any:
        """p(z) as it is now, of tensors: a `DiagonalNormal`, a `Mixture`, or a prior's own; p(z|c) given a condition.

        Args:
            condition: `(batch, ...)` tensor; the distribution of a prior that takes it then has a batch axis.
        """
        if isinstance(self.prior, priors.Prior):
            if self.has_conditional_prior:
                condition = self._for_prior(condition)
            return priors.checked(self.prior.distribution(given=condition, encode=self._posterior), self.prior)
        return self.prior.as_float32()

    def decoder_parameters(self, z: Any, training: bool = False, condition: Any = None, x: Any = None) -> Any:
        """The parameters of p(x|z) in float32: `(..., *latent_shape)` to `(..., *parameter shape)`.

        Args:
            z: `(batch, *latent_shape)`, or with an axis of samples before.
            training: As in Keras.
            condition: `(batch, ...)` tensor, if the model is conditional.
            x: `(batch, steps, ...)` data, of which a decoder with an input "previous" is given the steps before each
                step: the parameters of step t are those of p(x_t | x_1, ..., x_(t-1), z).
        """
        condition, rank = self._as_condition(condition, self.decoder), len(self.latent_shape)
        if len(z.shape) == 1 + rank:
            return ops.cast(self._decoder_outputs(z, condition, training, x), "float32")
        leading, event = ops.shape(z)[:-rank], ops.shape(z)[-rank:]

        def for_each_sample(tensor):
            tensor = ops.broadcast_to(tensor, (leading[0], *ops.shape(tensor)))
            return ops.reshape(tensor, (-1, *ops.shape(tensor)[2:]))

        condition = None if condition is None else for_each_sample(condition)
        x = for_each_sample(x) if self.is_autoregressive and x is not None else None
        parameters = self._decoder_outputs(ops.reshape(z, (-1, *event)), condition, training, x)
        return ops.reshape(ops.cast(parameters, "float32"), (*leading, *ops.shape(parameters)[1:]))

    def _parameters_of(self, z, x, condition=None, training=False):
        """`decoder_parameters`, which a subclass may have changed: it is told x only if the decoder asks for it."""
        steps = {"x": x} if self.is_autoregressive else {}
        return self.decoder_parameters(z, training, condition, **steps)

    def noise(self, batch: Any) -> Any:
        """Draws from N(0, I), `(num_samples, batch, *noise_shape)`, new at every call, from the model's seed.

        None where the shape of z follows from that of x: `terms` then draws the noise once it knows z.
        """
        shape = self.noise_shape()
        if None in shape:
            return None
        return _backend.random_normal((self.objective.num_samples, batch, *shape), self.seed_generator)

    def noise_shape(self, data_shape: Any = None) -> tuple[Any, ...]:
        """Shape of the N(0, 1) variates that one z is made of; `data_shape` as in `latent_shape_of`."""
        latent_shape = self.latent_shape if data_shape is None else self.latent_shape_of(data_shape)
        return tuple(self.posterior_family.noise_shape(latent_shape))

    def latent_shape_of(self, data_shape: Any) -> tuple[Any, ...]:
        """Shape of z for one example of this shape; it is `latent_shape` unless that leaves sizes free."""
        if None not in self.latent_shape:
            return self.latent_shape
        x = keras.KerasTensor((None, *data_shape), dtype=self.x_dtype)
        condition = None
        if self.condition_shape is not None:
            condition = keras.KerasTensor((None, *self.condition_shape), dtype=self.condition_dtype)
        trace: Any = keras.Operation(name="encoder")
        trace.call = self._encoder_outputs
        return self.posterior_family.latent_shape(trace.compute_output_spec(x, condition))

    def terms(
        self, x: Any, noise: Any, target: Any = None, training: bool = False, condition: Any = None
    ) -> objectives.Terms:
        """The terms of the bound for given noise: the whole model as a function without randomness.

        Args:
            x: `(batch, ...)` tensor.
            noise: `(num_samples, batch, *noise_shape)` draws from N(0, I), as `noise` gives them.
            target: What to reconstruct; x itself if None.
            training: As in Keras: for dropout, batch normalisation and the like.
            condition: `(batch, ...)` tensor, if the model is conditional.

        Returns:
            `Terms` of `(batch,)` float32 tensors, in nats.
        """
        target = x if target is None else target
        return self._terms(self.objective, Batch(x, condition, target), noise, training)

    def elbo_terms(self, x: Any, noise: Any, condition: Any = None, prior: Any = None) -> objectives.Terms:
        """As `terms`, for the plain ELBO whatever the objective: what `elbo` returns and an exported bundle computes.

        `prior` stands for `prior_distribution()`, if that is at hand.
        """
        return self._terms(objectives.ELBO(), Batch(x, condition, x), noise, prior=prior)

    def log_prob_terms(self, x: Any, noise: Any, condition: Any = None) -> Any:
        """E_q log p(x_d|z) of each dimension d: `(batch, ...)`, in nats; their sum is the reconstruction term, negated.

        A missing value has 0. Arguments as in `elbo_terms`.
        """
        z, _ = self._posterior(x, False, condition).draw(noise)
        parameters, observed = self._parameters_of(z, x, condition), self._observed(x)
        return ops.mean(self.likelihood.log_prob_terms(x, parameters, observed), axis=0)

    def log_weights(self, x: Any, noise: Any, condition: Any = None) -> Any:
        """log of the importance weights w = p(x|z) p(z) / q(z|x), whose mean over z from q(z|x) is p(x).

        Args:
            x: `(batch, ...)` tensor.
            noise: `(num_samples, batch, *noise_shape)` draws from N(0, I).
            condition: `(batch, ...)` tensor, if the model is conditional.

        Returns:
            `(num_samples, batch)` float32 tensor, in nats.

        Reference: Burda et al. 2016, arXiv:1509.00519, section 3.
        """
        return self._weighted(x, noise, condition)[2]

    def _weighted(self, x, noise, condition=None):
        """z, the parameters of p(x|z) and the log weight of each, as in `log_weights`."""
        z, log_posterior = self._posterior(x, False, condition).draw(noise)
        parameters = self._parameters_of(z, x, condition)
        log_prior = self.prior_distribution(condition).log_prob(z)
        return z, parameters, self._log_likelihood(x, parameters) + log_prior - log_posterior

    def call(self, x: Any, training: bool = False) -> Any:
        """The mean of p(x|z) at the posterior's location: the reconstruction, deterministic.

        Of a decoder that follows the steps before, each step's mean given those of x: the prediction of the next step.
        """
        self._version.traces += 1
        batch = Batch.read((x,), self._fields)
        return self._by_name(self._predicted(batch.x, batch.given, training))

    def _predicted(self, x, condition=None, training=False):
        mean = self._decode_mean(self._posterior(x, training, condition).location, condition, training, x)
        validation.check_sizes(mean.shape[1:], x.shape[1:])
        return mean

    def _posterior(self, x, training=False, condition=None):
        """`posterior`, which a subclass may have changed: every verb asks here, and gets what it can use."""
        given = () if condition is None else (condition,)
        return posteriors.checked(self.posterior(x, training, *given), self.posterior_family, type(self))

    def _terms(self, objective, batch, noise, training=False, posterior=None, prior=None):
        """The terms of a `Batch`; its posterior and the prior are computed if they are not at hand."""
        posterior = self._posterior(batch.x, training, batch.given) if posterior is None else posterior
        target = ops.cast(batch.target, "float32")
        if noise is None:  # whose shape is known only now
            size, *latent_shape = ops.shape(posterior.location)
            shape = (self.objective.num_samples, size, *self.posterior_family.noise_shape(tuple(latent_shape)))
            noise = _backend.random_normal(shape, self.seed_generator)
        noise = ops.cast(noise, "float32")
        # A normal has its density at any z, and most objectives do not ask; others have it of what they have drawn.
        is_normal = isinstance(posterior, DiagonalNormal)
        z, log_posterior = (posterior.from_noise(noise), None) if is_normal else posterior.draw(noise)
        of_parts = {}

        def log_prob_of(parameters):
            total, found = self._log_likelihood_of_parts(target, parameters, training, batch.weight)
            of_parts.update(found)
            return total

        latents = objectives.LatentBatch(
            z=z,
            noise=noise,
            decode=lambda z: self._parameters_of(z, target, batch.given, training),
            log_prob_of=log_prob_of,
            posterior=posterior,
            prior=self.prior_distribution(batch.given) if prior is None else prior,
            step=self.training_step.value,
            weight=batch.weight,
            x=batch.x,
            target=target,
            likelihood=self.likelihood,
            training=training,
            log_posterior=log_posterior,
        )
        terms = objectives.compute_terms(objective, latents)
        logs = {f"reconstruction_{name}": -ops.mean(value, axis=0) for name, value in of_parts.items()}
        return terms._replace(logs=terms.logs | logs) if logs else terms

    def _log_likelihood(self, x, parameters, training=False, weight=None):
        """log p(x|z) of what is observed of x: `(num_samples, batch)` for parameters with an axis of samples."""
        return self._log_likelihood_of_parts(x, parameters, training, weight)[0]

    def _log_likelihood_of_parts(self, x, parameters, training=False, weight=None):
        """As `_log_likelihood`, and what each named part has of it."""
        x = ops.cast(x, "float32")
        observed = self._observed(x)
        validation.check_sizes(self.likelihood.data_shape(tuple(parameters.shape))[-len(x.shape) + 1 :], x.shape[1:])
        fitted = self.likelihood.update(x, parameters, observed, weight) if training else None
        if not self.likelihood.part_names:
            return self.likelihood.log_prob(x, parameters, observed, fitted), {}
        of_parts = self.likelihood.of_parts(self.likelihood.log_prob_terms(x, parameters, observed, fitted))
        return sum(of_parts.values()), of_parts

    def _observed(self, x):
        return ops.logical_not(ops.isnan(ops.cast(x, "float32"))) if self.allow_missing else None
