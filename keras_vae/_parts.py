"""The parts that a `VAE` is made of: how they are assigned, saved and loaded, and what one of the user's own must have.

A part may be a class that the user wrote. What it lacks would show in the third verb or in another process, far from
its cause. So it is refused when the model is given it, and what a file will not give back is named when the model is
saved; saving itself is never refused, as the model may have been trained for days.
"""

import inspect
import warnings
from collections.abc import Iterator
from typing import Any, Self

import keras

from keras_vae import likelihoods, objectives, posteriors, priors
from keras_vae._config import Configured, forget, require_method
from keras_vae._latent_statistics import LatentStatistics
from keras_vae._typing import Model, with_arguments_of
from keras_vae.distributions import Distribution, check_density

_PARTS = ("encoder", "decoder", "likelihood", "posterior", "objective", "prior")
_ATTRIBUTES = tuple("posterior_family" if part == "posterior" else part for part in _PARTS)
# What an attribute may be assigned instead of the object itself: a name, or a config.
_RESOLVED = {"likelihood": likelihoods.get, "objective": objectives.get, "posterior_family": posteriors.get}

# What a class of the user's own must define: one of the methods, and what it is for.
_NEEDED = (
    (
        likelihoods.Likelihood,
        ("log_prob_per_dimension", "fitted_log_prob_per_dimension", "log_prob"),
        "(x, parameters), of which the bound is made",
    ),
    (likelihoods.Likelihood, ("mean",), "(parameters), which predict, decode and reconstruct give"),
    (likelihoods.Likelihood, ("sample",), "(parameters, seed), with which sample(draw=True) draws x"),
    (objectives.Objective, ("__call__",), "(batch), which returns the Terms of the bound"),
    (posteriors.Posterior, ("latent_shape",), "(outputs), from which the model knows the shape of z"),
    (posteriors.Posterior, ("distribution",), "(outputs, training), which gives q(z|x)"),
    (priors.Prior, ("distribution",), "(given, encode), which gives p(z)"),
)


def _check(part):
    """Raises a TypeError if the model cannot use a part, for reasons that its class alone tells."""
    if isinstance(part, Configured) and "built" not in vars(part):
        raise TypeError(f"{type(part).__name__}.__init__ does not call super().__init__(): call it first.")
    for base, methods, purpose in _NEEDED:
        if isinstance(part, base):
            require_method(type(part), base, methods, purpose)
    if isinstance(part, priors.Prior) and part.distribution_class is not Distribution:
        check_density(part.distribution_class)
    base = likelihoods.Likelihood
    if isinstance(part, base) and part.has_stddev and type(part).stddev is base.stddev:
        raise TypeError(f"{part!r} says has_stddev = True and defines no stddev(parameters), which export writes.")


class Parts:
    """Mixed into `VAE`: its parts as attributes and in its config."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _ATTRIBUTES:
            value = _RESOLVED[name](value) if name in _RESOLVED else value
            _check(value)
            forget(self, name)
        if name == "latent_statistics" and not isinstance(value, LatentStatistics | None):
            raise TypeError(
                "latent_statistics is what keras_vae.evaluation.latent_statistics(vae, x) returns, or None; got a "
                f"{type(value).__name__}."
            )
        super().__setattr__(name, value)

    def _build_networks_of_parts(self, x, condition, parameters):
        """Has networks inside the parts make their weights, if they wait for a call: none can be made inside a step.

        Args:
            x, condition, parameters: Symbolic tensors: the data, and what the decoder returns.
        """
        if all(layer.built for name in _ATTRIBUTES[2:] for layer in _layers(getattr(self, name))):
            return
        sizes = zip(x.shape, parameters.shape, strict=True)
        x = keras.KerasTensor([known if size is None else size for size, known in sizes], dtype=x.dtype)
        noise = keras.KerasTensor((self.objective.num_samples, None, *self.noise_shape()))
        trace: Any = keras.Operation(name="terms")
        trace.call = lambda x, noise, condition: tuple(self.terms(x, noise, condition=condition)[:3])
        try:
            trace.compute_output_spec(x, noise, condition)
        except AttributeError:
            if self.built:  # else a subclass may be about to set what its methods read; this is called again before use
                raise

    @with_arguments_of(Model.save)
    def save(self, *args, **kwargs):
        """As `keras.Model.save`; warns of what `keras.saving.load_model` will not find or not take."""
        for words in _not_loaded_as_it_is(self):
            warnings.warn(words, stacklevel=2)
        return super().save(*args, **kwargs)

    def get_config(self) -> dict[str, Any]:
        if self.built:
            self._refresh()  # what was assigned a moment ago has its weights now, to be saved next
        parts = zip(_PARTS, (getattr(self, attribute) for attribute in _ATTRIBUTES), strict=True)
        serialize = keras.saving.serialize_keras_object
        config = {name: serialize(part) for name, part in parts if part is not self._standard_prior}
        config |= {"seed": self.seed, "allow_missing": self.allow_missing}
        if self.latent_statistics is not None:
            config["latent_statistics"] = self.latent_statistics.get_config()
        return super().get_config() | config

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None) -> Self:
        config = {
            key: keras.saving.deserialize_keras_object(value, custom_objects) if key in _PARTS and value else value
            for key, value in config.items()
        }
        statistics = config.pop("latent_statistics", None)
        model = cls(**config)
        model.latent_statistics = statistics and LatentStatistics(**statistics)
        return model


def _not_loaded_as_it_is(model) -> Iterator[str]:
    """What a file of the model will not give back, in sentences."""
    for name in sorted(set(_unregistered(keras.saving.serialize_keras_object(model)))):
        yield (
            f"{name} is not registered, so keras.saving.load_model will find it only with custom_objects: put "
            '@keras.saving.register_keras_serializable(package="...") above its definition.'
        )
    layers = [layer for part in _ATTRIBUTES[2:] for layer in _layers(getattr(model, part))]
    for part in (model, *(layer for layer in layers if isinstance(layer, Configured))):
        kind, base = type(part), Parts if part is model else Configured
        is_ours = (kind.__init__.__module__ or "").startswith("keras_vae.")
        if is_ours or kind.from_config.__func__ is not base.from_config.__func__:
            continue
        parameters = list(inspect.signature(kind.__init__).parameters.values())[1:]  # the first is the object itself
        takes = {p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
        gives = set(part.get_config()) - {"latent_statistics"}
        takes_more = any(p.kind == p.VAR_KEYWORD for p in parameters)
        if takes - gives - set(_PARTS) or (gives - takes and not takes_more):
            yield (
                f"{kind.__name__} will not be loaded as it is: its __init__ takes {sorted(takes)}, and its "
                f"get_config returns {sorted(gives)}. Let get_config return the arguments of __init__."
            )


def _layers(part):
    return part._flatten_layers() if isinstance(part, keras.layers.Layer) else ()


def _unregistered(config):
    """The names in a config, of classes and functions, that Keras would not find."""
    if isinstance(config, dict):
        name, kind, module = (config.get(key) for key in ("registered_name", "class_name", "module"))
        is_own = kind and isinstance(name, str) and str(module).partition(".")[0] not in ("keras", "builtins")
        if is_own and keras.saving.get_registered_object(name) is None:
            yield str(config["config"] if kind == "function" else kind)
        config = list(config.values())
    if isinstance(config, list | tuple):
        for item in config:
            yield from _unregistered(item)
