"""The variational autoencoder as a Keras model.

`VAE` holds an encoder, a decoder, a likelihood, a prior and an objective, and gives them Keras's verbs. All of the
mathematics of a step is in `terms` and `step_loss`; how a backend differentiates it is in `_train_step/`.
"""

import inspect
import warnings
from numbers import Integral
from typing import TYPE_CHECKING, Any, Unpack

import keras
import numpy as np
from keras import ops

from keras_vae import _checks, _mapped, likelihoods, objectives, priors
from keras_vae._conditions import (
    check_condition,
    declares_condition,
    input_dtype,
    known_input_shape,
    run,
    several_inputs,
    shapes_of,
    split_condition,
    takes_condition,
)
from keras_vae._inference import BatchedFunctions, Inference
from keras_vae._numerics import bounded
from keras_vae._train_step import fused, normal, tune
from keras_vae._typing import CompileOptions, Model, ModelOptions, with_arguments_of
from keras_vae.distributions import DiagonalNormal, Mixture

if TYPE_CHECKING:  # one class, and not one of three: see _typing.py
    from keras_vae._train_step.fused import Trainer as BackendTrainer
else:
    from keras_vae._train_step import BackendTrainer

# log_var is kept in this range. Below, a standard deviation of 3e-7 is float32's resolution of a mean near 1; above,
# one of 1800 still leaves z inside float16. No sensible posterior comes near either.
LOG_VAR_RANGE = (-30.0, 15.0)

# `evaluate` draws from the model's seed at this position of the counter, which training does not reach.
_EVALUATION_COUNTER = 2**30


@keras.saving.register_keras_serializable(package="keras_vae")
class VAE(BackendTrainer, Inference, Model):
    """A variational autoencoder: maximises a lower bound of log p(x) with `fit`.

        log p(x) >= E_q [log p(x|z)] - KL(q(z|x) || p(z))       q(z|x) = N(mean(x), diag(exp(log_var(x))))

    The logs of `fit` and `evaluate` are in nats per example, exact weighted means over the examples seen: `loss`
    (what is minimised), `reconstruction` (-E_q log p(x|z)), `kl` (analytic; an average over the samples of z where
    there is no closed form, as to a mixture), `negative_elbo` (their sum, unweighted: the one to watch), what the
    objective adds (`beta` while a schedule runs), and the metrics of `compile`, which compare the target with the
    reconstruction through the posterior mean, as `predict` gives it.

    A conditional model has networks with another input, called "condition": labels, or any tensor. Its data are dicts,
    `{"x": x, "condition": c}`, in `fit` and wherever a method says "data"; `decode` and `sample` take `condition=c`.
    Every probability is then one given the condition.

    `sample_weight` means what it means in Keras: the loss minimised is the sum of weight times loss over the number
    of examples; the logs are divided by the sum of the weights, so an example of weight 0 does not count.

    Args:
        encoder: A Keras model or layer from x to the mean and log variance of q(z|x), two tensors of shape
            `(batch, latent_dim)`: as a pair, or as a dict with keys `z_mean` and `z_log_var` (or `mean`, `log_var`).
        decoder: A Keras model or layer from z, `(batch, latent_dim)`, to the parameters of the likelihood: the shape
            of the data, with `likelihood.parameter_channels` channels. In a conditional model either or both have an
            input of the name "condition"; a network whose inputs are not known is called with
            `{"x": x, "condition": c}`, or "z" in place of "x".
        likelihood: "bce" (= "bernoulli", the decoder gives logits), "mse" (= "gaussian", scale 1), another name or a
            `Likelihood`, such as `Gaussian("learned")`.
        objective: "elbo", "iwae" or an `Objective` such as `ELBO(beta=4.0)`.
        prior: p(z): a `Prior` of `keras_vae.priors`, which learns, such as `VampPrior(500)`; a `DiagonalNormal` or a
            `Mixture` over the latent dimensions, which stays as it is; None is N(0, I).
        seed: An integer for reproducible noise, or None.
        allow_missing: Whether NaN in the data means a missing value: the encoder then sees 0 in its place, and the
            reconstruction term leaves it out, so that the bound is one of log p(observed values). Else NaN is refused.

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
        encoder: keras.layers.Layer,
        decoder: keras.layers.Layer,
        likelihood: str | likelihoods.Likelihood = "bce",
        objective: str | objectives.Objective = "elbo",
        prior: priors.Prior | DiagonalNormal | Mixture | None = None,
        seed: int | None = None,
        allow_missing: bool = False,
        **kwargs: Unpack[ModelOptions],
    ):
        # The networks cast what they take: bfloat16 would make a class 301 of a float label 302.
        super().__init__(**{"autocast": False, **kwargs})
        self.encoder = encoder
        self.decoder = decoder
        self.likelihood = likelihoods.get(likelihood)
        self.objective = objectives.get(objective)
        self.prior: Any = prior  # not None, once built
        self.seed = seed
        self.allow_missing = bool(allow_missing)
        self.data_shape: Any = None  # the shape of one example, once built
        self.condition_shape: Any = None  # the shape of its condition, once built; None if there is none
        self.latent_dim: Any = None  # an int, once built

        self.seed_generator = keras.random.SeedGenerator(_spread(seed))
        # "int" is int64 on TensorFlow, whose int32 variables cannot live on a GPU, and int32 elsewhere.
        self.training_step = self.add_weight(
            name="training_step", shape=(), dtype="int", initializer="zeros", trainable=False
        )
        logged = ("reconstruction", "kl", "negative_elbo", *self.objective.log_names)
        self._trackers = {name: keras.metrics.Mean(name=name) for name in logged}
        self._has_compiled_metrics = False
        self._warned = False  # of data that the likelihood is none of
        self._data_seen = set()  # the Keras functions whose first batch has been checked
        self._in_batches = BatchedFunctions(self)
        self.device_data = fused.DeviceData()
        self.data_on_device: str | bool = "auto"

        input_shape = known_input_shape(encoder, decoder)
        if input_shape is not None:
            self.build(input_shape)
            self._tracker.unlock()  # a subclass adds its own weights and metrics after super().__init__()

    def __setattr__(self, name, value):
        super().__setattr__(name, value)
        if "_in_batches" not in vars(self):  # not made yet
            return
        if name in ("encoder", "decoder", "likelihood", "prior"):
            self._in_batches.clear()
        if name == "prior" and self.built:
            self._build_prior()

    # Building

    def build(self, input_shape):
        """Builds encoder and decoder for data of `input_shape`, and checks that they fit together.

        Args:
            input_shape: `(batch, ...)`; of a conditional model a dict of two such shapes, "x" and "condition".
        """
        input_shape, condition_shape = shapes_of(input_shape)
        self.data_shape = tuple(input_shape[1:])
        self.condition_shape = None if condition_shape is None else tuple(condition_shape[1:])
        x = keras.KerasTensor((None, *self.data_shape), dtype=input_dtype(self.encoder, "x"))
        condition = None
        if condition_shape is not None:
            condition = keras.KerasTensor((None, *self.condition_shape), dtype=self.condition_dtype)
        mean, log_var = _checks.encoder_outputs(run(self.encoder, "x", x, condition))
        _checks.check_encoder(mean, log_var)
        self.latent_dim = mean.shape[-1]
        z = keras.KerasTensor((None, self.latent_dim), dtype=self.compute_dtype)
        parameters = run(self.decoder, "z", z, condition)
        _checks.check_decoder(parameters, self.data_shape, self.likelihood)
        _checks.check_last_activation(self.decoder, self.likelihood)
        self._build_prior()
        self.built = True

    def build_for(self, x, condition=None):
        """Builds for data like an array x and its condition, if that has not been done."""
        if not self.built:
            shape = (None, *x.shape[1:])
            self.build(shape if condition is None else {"x": shape, "condition": (None, *np.shape(condition)[1:])})

    def _build_prior(self):
        if self.prior is None:
            self.prior = DiagonalNormal.standard(self.latent_dim)
        priors.check(self.prior)
        if isinstance(self.prior, priors.Prior):
            wants = None
            if self.condition_shape is not None and takes_condition(self.encoder):
                wants = "a condition with each"
            elif "int" in input_dtype(self.encoder, "x"):
                wants = "whole numbers"
            self.prior.fit_to(self.latent_dim, self.data_shape, self.likelihood.data_range, wants)
        else:
            normal = isinstance(self.prior, DiagonalNormal)
            shape = tuple(np.shape(self.prior.mean if normal else self.prior.components.mean[0]))
            if shape != (self.latent_dim,):
                raise ValueError(
                    f"The prior is over {shape} dimensions, but the encoder gives latent_dim = {self.latent_dim}: the "
                    f"prior's mean and log_var must have shape ({self.latent_dim},)."
                )
        self.objective.check_prior(self.prior)

    @property
    def condition_dtype(self):
        """Of the condition: what the networks declare, else that of floats."""
        networks = [network for network in (self.encoder, self.decoder) if declares_condition(network)]
        return input_dtype(networks[0], "condition") if networks else keras.config.floatx()

    # The mathematics

    def posterior(self, x, training=False, condition=None):
        """q(z|x) for a batch of tensors, a `DiagonalNormal` of shape `(batch, latent_dim)` in float32."""
        x, condition = self._as_input(x), self._as_condition(condition, self.encoder)
        if self.allow_missing and "float" in keras.backend.standardize_dtype(x.dtype):  # an integer is never missing
            x = ops.where(ops.isnan(x), ops.zeros_like(x), x)
        mean, log_var = _checks.encoder_outputs(run(self.encoder, "x", x, condition, training))
        mean, log_var = ops.cast(mean, "float32"), ops.cast(log_var, "float32")
        if not training:
            return DiagonalNormal(mean, ops.clip(log_var, *LOG_VAR_RANGE))
        return DiagonalNormal(mean, bounded(log_var, *LOG_VAR_RANGE))

    def prior_distribution(self):
        """p(z) as it is now: a `DiagonalNormal` of shape `(latent_dim,)`, or a `Mixture`."""
        if isinstance(self.prior, priors.Prior):
            return self.prior.distribution(self.posterior)
        return self.prior.as_float32()

    def decoder_parameters(self, z, training=False, condition=None):
        """The parameters of p(x|z) in float32: `(..., latent_dim)` to `(..., *parameter shape)`."""
        condition = self._as_condition(condition, self.decoder)
        if len(z.shape) == 2:
            return ops.cast(run(self.decoder, "z", z, condition, training), "float32")
        leading = ops.shape(z)[:-1]
        if condition is not None:  # `(batch, ...)`, the same for each sample
            condition = ops.broadcast_to(condition, (leading[0], *ops.shape(condition)))
            condition = ops.reshape(condition, (-1, *condition.shape[2:]))
        parameters = run(self.decoder, "z", ops.reshape(z, (-1, self.latent_dim)), condition, training)
        return ops.reshape(ops.cast(parameters, "float32"), (*leading, *parameters.shape[1:]))

    def noise(self, batch):
        """epsilon ~ N(0, I) of shape `(num_samples, batch, latent_dim)`, new at every call, from the model's seed."""
        shape = (self.objective.num_samples, batch, self.latent_dim)
        return normal(shape, self.seed_generator)

    def terms(self, x, epsilon, target=None, training=False, condition=None):
        """The terms of the bound for given noise: the whole model as a function without randomness.

        Args:
            x: `(batch, ...)` tensor.
            epsilon: `(num_samples, batch, latent_dim)` draws from N(0, I).
            target: What to reconstruct; x itself if None.
            training: As in Keras: for dropout, batch normalisation and the like.
            condition: `(batch, ...)` tensor, if the model is conditional.

        Returns:
            `Terms` of `(batch,)` float32 tensors, in nats.
        """
        posterior = self.posterior(x, training, condition)
        target = x if target is None else target
        return self.objective(self._draws(posterior, epsilon, target, training, condition=condition))

    def elbo_terms(self, x, epsilon, condition=None, prior=None):
        """As `terms`, of the plain ELBO whatever the objective: what `elbo` returns and an exported bundle computes.

        `prior` stands for `prior_distribution()`, if that is at hand.
        """
        posterior = self.posterior(x, condition=condition)
        return objectives.ELBO()(self._draws(posterior, epsilon, x, condition=condition, prior=prior))

    def _draws(self, posterior, epsilon, target, training=False, weight=None, condition=None, prior=None):
        def log_likelihood(z):
            parameters = self.decoder_parameters(z, training, condition)
            return self._log_likelihood(target, parameters, training, weight)

        return objectives.Draws(
            z=posterior.reparameterize(epsilon),
            epsilon=epsilon,
            log_likelihood=log_likelihood,
            posterior=posterior,
            prior=self.prior_distribution() if prior is None else prior,
            step=self.training_step.value,
            weight=weight,
        )

    def _log_likelihood(self, x, parameters, training=False, weight=None):
        """log p(x|z) of what is observed of x: `(num_samples, batch)` for parameters with an axis of samples."""
        x = ops.cast(x, "float32")
        observed = ops.logical_not(ops.isnan(x)) if self.allow_missing else None
        fitted = self.likelihood.update(x, parameters, observed, weight) if training else None
        return self.likelihood.log_prob(x, parameters, observed, fitted)

    def log_weights(self, x, epsilon, condition=None):
        """log of the importance weights w = p(x|z) p(z) / q(z|x), whose mean over z from q(z|x) is p(x).

        Args:
            x: `(batch, ...)` tensor.
            epsilon: `(num_samples, batch, latent_dim)` draws from N(0, I).
            condition: `(batch, ...)` tensor, if the model is conditional.

        Returns:
            `(num_samples, batch)` float32 tensor, in nats.

        Reference: Burda et al. 2016, arXiv:1509.00519, section 3.
        """
        posterior = self.posterior(x, condition=condition)
        z = posterior.reparameterize(epsilon)
        log_likelihood = self._log_likelihood(x, self.decoder_parameters(z, condition=condition))
        return log_likelihood + self.prior_distribution().log_prob(z) - posterior.log_prob(z)

    def step_loss(self, data, training):
        """What one step minimises; updates the trackers, and in training the step counter.

        To minimise something else write an `Objective`: what a subclass changes here is minimised but not logged.

        Args:
            data: x, `(x,)`, `(x, y)` or `(x, y, sample_weight)`, as Keras hands it to a step; of a conditional model x
                is a dict.
            training: Whether this is a training step.

        Returns:
            A float32 scalar: the mean over the batch of the objective's loss, plus Keras's regularisation losses.
        """
        x, condition, target, weight = self._unpack(data)
        posterior = self.posterior(x, training, condition)
        epsilon = self.noise(ops.shape(x)[0])
        terms = self.objective(self._draws(posterior, epsilon, target, training, weight, condition))
        penalties = sum((ops.cast(loss, "float32") for loss in self.losses), start=0.0)
        self._track(terms, penalties, weight)
        if self._has_compiled_metrics:
            # In inference mode, as `predict` runs it; batch normalisation must not see a second batch.
            reconstruction = ops.stop_gradient(self._mean_of(ops.stop_gradient(posterior.mean), condition))
            if self.allow_missing:  # a metric knows no missing values: it sees them reconstructed exactly
                target = ops.where(ops.isnan(target), reconstruction, target)
            self.compute_metrics(x, target, reconstruction, weight)
        if training:
            self.training_step.assign_add(1)
        total = ops.sum(terms.loss if weight is None else terms.loss * weight)
        # Of several replicas, one may be left without an example of the last batch.
        return total / ops.cast(ops.maximum(ops.shape(x)[0], 1), "float32") + penalties

    def _track(self, terms, penalties, weight):
        values = {"reconstruction": terms.reconstruction, "kl": terms.kl, "negative_elbo": terms.negative_elbo}
        # One per example, so that a scalar is averaged like the others.
        values |= {name: value + ops.zeros_like(terms.kl) for name, value in terms.logs.items()}
        self._loss_tracker.update_state(ops.stop_gradient(terms.loss + penalties), weight)
        for name, value in values.items():
            self._trackers[name].update_state(ops.stop_gradient(value), weight)

    def _unpack(self, data):
        x, y, weight = keras.utils.unpack_x_y_sample_weight(data)
        x, condition = split_condition(x)
        x = ops.convert_to_tensor(x)
        target = x if y is None else ops.convert_to_tensor(y)
        _checks.check_data(target, self.data_shape, "x" if y is None else "y")
        if weight is not None:
            weight = ops.convert_to_tensor(weight, dtype="float32")
            if any(size != 1 for size in weight.shape[1:]):
                raise ValueError(
                    f"sample_weight must have one value per example, shape (batch,); got shape {tuple(weight.shape)}."
                )
            weight = ops.reshape(weight, (-1,))
        return x, condition, ops.cast(target, "float32"), weight

    def _as_input(self, x):
        """Integers become floats, unless the encoder declares an integer input."""
        x = ops.convert_to_tensor(x)
        if "int" in input_dtype(self.encoder, "x") or "float" in keras.backend.standardize_dtype(x.dtype):
            return x
        return ops.cast(x, keras.config.floatx())

    def _as_condition(self, condition, network):
        """A tensor of the dtype that the network takes; None if it takes none."""
        if not takes_condition(network) or (condition is None and self.condition_shape is None):
            return None
        self._require_condition(condition)
        return ops.cast(ops.convert_to_tensor(condition), self.condition_dtype)

    def call(self, x, training=False):
        """The mean of p(x|z) at the posterior mean: the reconstruction, deterministic."""
        x, condition = split_condition(x)
        return self._mean_of(self.posterior(x, training, condition).mean, condition, training)

    # Keras's verbs, with their first batch checked

    def compile(  # pyright: ignore[reportIncompatibleMethodOverride] # metrics by name only
        self,
        optimizer="adam",
        loss=None,
        *,
        metrics=None,
        weighted_metrics=None,
        data_on_device: str | bool = "auto",
        **kwargs: Unpack[CompileOptions],
    ):
        """Configures training. As `keras.Model.compile`, but there is no `loss` to choose.

        For speed, pass `steps_per_execution=N`: on JAX and TensorFlow the N steps are then one compiled program,
        callbacks hear of every N-th, and Keras rounds `steps_per_epoch` up to a multiple of N. On TensorFlow on a CPU
        that program is XLA's, unless `jit_compile=False`, which draws other noise than the plain graph.

        As everywhere where steps are compiled, on PyTorch too what Python says (an attribute of a layer, the prior) is
        read when a step is traced; compile again after changing it, or pass `run_eagerly=True`.

        Args:
            optimizer: Name or instance.
            loss: Refused: the loss follows from the likelihood and the objective.
            metrics, weighted_metrics: Keras metrics, which compare the target with the reconstruction.
            data_on_device: Whether `fit` copies arrays to the device once and looks batches up there, which needs
                `steps_per_execution` above 1, and no condition beside x. "auto" is up to 1 GiB; True is any size; False
                is never. Changes made to the arrays while `fit` runs are then not seen.
            **kwargs: `run_eagerly`, `jit_compile`, `steps_per_execution`, `auto_scale_loss`.
        """
        if data_on_device not in ("auto", True, False):
            raise ValueError(f'data_on_device must be "auto", True or False; got {data_on_device!r}.')
        if loss is not None or kwargs.pop("loss_weights", None) is not None:
            raise ValueError(
                f"A VAE takes no loss in compile() (got {loss!r}): the loss is -ELBO. Choose its reconstruction term "
                'with VAE(..., likelihood="bce" or "mse"), and the weight of its KL term with objective=ELBO(beta=...).'
            )
        if kwargs.get("jit_compile", "auto") == "auto" and not kwargs.get("run_eagerly"):
            kwargs["jit_compile"] = self.auto_jit(kwargs.get("steps_per_execution", 1))
        super().compile(optimizer=optimizer, metrics=metrics, weighted_metrics=weighted_metrics, **kwargs)
        tune(self.optimizer)
        self.data_on_device = data_on_device
        self._in_batches.clear()
        self._has_compiled_metrics = bool(metrics or weighted_metrics)
        self._data_seen.clear()

    def get_compile_config(self):
        config = super().get_compile_config()
        return config and {**config, "data_on_device": self.data_on_device}

    def compile_from_config(self, config):
        config = keras.saving.deserialize_keras_object(config)
        self.compile(**config)
        if self.built:
            self.optimizer.build(self.trainable_variables)

    @with_arguments_of(Model.fit)
    def fit(self, *args, **kwargs):
        """Trains the model; arguments and return value as `keras.Model.fit`. y, if given, is the target.

        Arrays of more than 1 GiB that are memory-mapped (`np.load(path, mmap_mode="r")`) are read batch by batch.
        """
        call = _bind(super().fit, args, kwargs)
        self._check_conditions(call.arguments.get("x"))
        if call.arguments.get("validation_data") is not None:
            x, y, weight = keras.utils.unpack_x_y_sample_weight(call.arguments["validation_data"])
            self._check_conditions(x)
            if y is None and weight is not None:
                call.arguments["validation_data"] = (x, split_condition(x)[0], weight)
            if _mapped.are_large(x, y, weight):
                size = call.arguments.get("validation_batch_size") or call.arguments.get("batch_size") or 32
                call.arguments["validation_data"] = _mapped.MappedBatches((x, y, weight), size, shuffle=False)
                call.arguments["validation_batch_size"] = None
        _mapped.replace(call.arguments, shuffle=call.arguments.get("shuffle", True))
        _lower_is_better(call.arguments.get("callbacks"), self._trackers)
        self._data_seen.discard("train_function")
        outer = self.device_data.arrays  # of a fit that a callback of another calls
        self.device_data.arrays = None
        try:
            self._put_on_device(call.arguments)
            with fused.quiet_at_the_end(self, call.arguments.get("steps_per_epoch")):
                return super().fit(*call.args, **call.kwargs)
        finally:
            self.device_data.arrays = outer

    def _put_on_device(self, arguments):
        """Puts indices in the place of data that are better kept on the device, as `_train_step/fused.py` explains."""
        names = ("x", "y", "sample_weight")
        data = [arguments.get(name) for name in names]
        if not self.data_on_device or not self.takes_indices() or not fused.are_arrays(*data):
            return
        if self.data_on_device == "auto" and not fused.are_small(*data):
            return
        x, y, weight = data
        if any(array is not None and len(array) != len(x) for array in data) or len(x) == 0:
            return  # Keras says what is wrong
        if not self.built:
            self.build((None, *x.shape[1:]))
        if not all(layer.built for layer in self._flatten_layers()):
            return  # Keras builds from the data
        if self._has_compiled_metrics:  # built here, as Keras would build them for indices
            one, target, weight_of_one = (None if array is None else ops.convert_to_tensor(array[:1]) for array in data)
            self.compute_metrics(one, target, self(one), weight_of_one)
            self.reset_metrics()
        arguments.update(x=self.device_data.put(x, y, weight), y=None, sample_weight=None)

    @with_arguments_of(Model.train_on_batch)
    def train_on_batch(self, *args, **kwargs):
        """One training step; as `keras.Model.train_on_batch`."""
        call = _bind(super().train_on_batch, args, kwargs)
        return super().train_on_batch(*call.args, **call.kwargs)

    @with_arguments_of(Model.evaluate)
    def evaluate(self, *args, **kwargs):
        """The logs on other data; as `keras.Model.evaluate`.

        The noise is the same at every call: the same weights give the same numbers, epochs are compared on equal
        terms, and validation does not change the noise that training will draw.
        """
        call = _bind(super().evaluate, args, kwargs)
        self._check_conditions(call.arguments.get("x"))
        _mapped.replace(call.arguments, shuffle=False)
        self._data_seen.discard("test_function")
        state = _checks.to_numpy(self.seed_generator.state.value)
        self.seed_generator.state.assign(np.asarray([state[0], _EVALUATION_COUNTER], state.dtype))
        try:
            with fused.quiet_at_the_end(self, call.arguments.get("steps")):
                return super().evaluate(*call.args, **call.kwargs)
        finally:
            self.seed_generator.state.assign(state)

    @with_arguments_of(Model.predict)
    def predict(self, x, *args, **kwargs):
        """The reconstruction through the posterior mean; as `keras.Model.predict`."""
        self._check_conditions(x)
        with fused.quiet_at_the_end(self, kwargs.get("steps")):
            return super().predict(_single(x), *args, **kwargs)

    def make_train_function(self, force=False):
        super().make_train_function(force)
        self._check_first_batch_of("train_function")

    def make_test_function(self, force=False):
        super().make_test_function(force)
        self._check_first_batch_of("test_function")

    def _check_first_batch_of(self, name):
        function = getattr(self, name)
        if name not in self._data_seen and not isinstance(function, _checks.FirstBatchCheck):
            setattr(self, name, _checks.FirstBatchCheck(self, name, function))
        self._data_seen.add(name)

    def check_batch(self, batch):
        """Raises a ValueError if a batch, as Keras hands it to a step, is not what this model can be trained on."""
        x, y, _ = keras.utils.unpack_x_y_sample_weight(fused.look_up(self.device_data.arrays, batch))
        x, condition = split_condition(x)
        if isinstance(x, list | tuple):
            raise ValueError(several_inputs(f"{len(x)} inputs"))
        if not _checks.is_array(x) or not (condition is None or _checks.is_array(condition)):
            return
        x, y = _checks.to_numpy(x), _checks.to_numpy(y) if _checks.is_array(y) else None
        self.build_for(x, condition)
        self.checked_condition(condition, len(x))
        if y is None or y is x or np.array_equal(x, y, equal_nan=self.allow_missing):
            name, target = "x", x
        else:
            name, target = "y", y
            likelihoods.check_finite(x, "x", self.allow_missing)
        _checks.check_data(target, self.data_shape, name)
        self.likelihood.validate(target, name, self.allow_missing)
        self._warn_once(self.likelihood.caveat(target))

    def _warn_once(self, words):
        if words and not self._warned:
            warnings.warn(words, stacklevel=2)
            self._warned = True

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        # Keras builds the compiled metrics with the y of the data, which is None where x is its own target.
        return super().compute_metrics(x, x if y is None else y, y_pred, sample_weight)

    def checked_condition(self, condition, count):
        """The condition of `count` examples as a NumPy array of the networks' dtype; None if they take none.

        Raises:
            ValueError: If it is not what the networks take; says why.
        """
        self._require_condition(condition)
        if condition is None:
            return None
        condition = _checks.to_numpy(condition)
        check_condition(condition, self.condition_shape, count, self.condition_dtype, (self.encoder, self.decoder))
        return condition.astype(self.condition_dtype, copy=False)

    def _check_conditions(self, x):
        """Checks all labels of arrays, of which a batch later than the first could hold one that is none."""
        if self.built and isinstance(x, dict):
            x, condition = split_condition(x)
            if _checks.is_array(x) and _checks.is_array(condition):
                self.checked_condition(condition, len(x))

    def _require_condition(self, condition):
        if condition is None and self.condition_shape is not None:
            raise ValueError('This model is conditional: pass {"x": x, "condition": c}, or condition=c.')
        if condition is not None and self.condition_shape is None:
            raise ValueError(
                'This model takes no condition: give one of its networks an input called "condition", as '
                "keras_vae.networks.mlp(..., condition=...) does."
            )

    # Saving

    def save_own_variables(self, store):
        # Keras saves weights but not the state of seed generators; with it a resumed run draws the noise that an
        # uninterrupted one would have, in dropout layers too.
        super().save_own_variables(store)
        for i, state in enumerate(self._seed_states()):
            store[f"seed_state_{i}"] = _checks.to_numpy(state.value).astype("int64")

    def load_own_variables(self, store):
        names = list(store.keys())  # an h5 group on disk is no dict: it cannot be iterated or asked with `in`
        super().load_own_variables({name: store[name] for name in names if not name.startswith("seed_state_")})
        for i, state in enumerate(self._seed_states()):
            if f"seed_state_{i}" in names:  # layers added since the file was written keep their own seed
                state.assign(np.asarray(store[f"seed_state_{i}"]).astype(state.dtype))

    def _seed_states(self):
        return [variable for variable in self.variables if variable.name == "seed_generator_state"]

    def get_config(self):
        return {
            **super().get_config(),
            "encoder": keras.saving.serialize_keras_object(self.encoder),
            "decoder": keras.saving.serialize_keras_object(self.decoder),
            "likelihood": keras.saving.serialize_keras_object(self.likelihood),
            "objective": keras.saving.serialize_keras_object(self.objective),
            "prior": None if self.prior is None else keras.saving.serialize_keras_object(self.prior),
            "seed": self.seed,
            "allow_missing": self.allow_missing,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        nested = ("encoder", "decoder", "likelihood", "objective", "prior")
        config = {
            key: keras.saving.deserialize_keras_object(value, custom_objects) if key in nested and value else value
            for key, value in config.items()
        }
        return cls(**config)


def _bind(method, args, kwargs):
    """The bound arguments of a Keras method that takes data, as a VAE means them."""
    call = inspect.signature(method).bind(*args, **kwargs)
    if call.arguments.get("class_weight") is not None:
        raise ValueError(
            "A VAE has no classes, so class_weight has no meaning. To weight examples pass sample_weight, for instance "
            "sample_weight=np.array([weights[label] for label in labels])."
        )
    if "x" in call.arguments:
        call.arguments["x"] = _single(call.arguments["x"])
    if call.arguments.get("y") is None and call.arguments.get("sample_weight") is not None:
        # Without a y Keras would drop the weights, silently.
        call.arguments["y"] = split_condition(call.arguments["x"])[0]
    return call


def _single(x):
    """x itself, or the one array of `(x,)`."""
    if not isinstance(x, list | tuple) or len(x) == 0 or not all(_checks.is_array(part) for part in x):
        return x
    if len(x) > 1:
        raise ValueError(
            f"x is a {type(x).__name__} of {len(x)} arrays, which Keras reads as {len(x)} inputs; a VAE takes one. "
            "To reconstruct y from x pass them apart: fit(x, y)."
        )
    return x[0]


def _lower_is_better(callbacks, names):
    """Tells callbacks with mode "auto" that our logs improve downwards: Keras only knows it of compiled metrics."""
    for callback in keras.tree.flatten(getattr(callbacks, "callbacks", callbacks) or []):
        monitor = getattr(callback, "monitor", None)
        if (
            getattr(callback, "mode", None) == "auto"
            and isinstance(monitor, str)
            and monitor.removeprefix("val_") in names
        ):
            callback.mode = "min"


def _spread(seed):
    """A seed for the `SeedGenerator`: on torch Keras adds seed and step, and seeds 5 and 6 would share their noise."""
    if seed is None:
        return None
    if isinstance(seed, bool) or not isinstance(seed, Integral) or seed < 0:
        raise ValueError(f"seed must be a whole number, zero or more, or None; got {seed!r}.")
    return int(
        np.random.SeedSequence(int(seed)).generate_state(1)[0] >> 2
    )  # below 2**30: room for the counter in int32
