"""What the model asks of a posterior family."""

from typing import Any

from keras_vae._config import Configured
from keras_vae._typing import Layer
from keras_vae.distributions import DiagonalNormal, Distribution

_NETWORKS = "keras_vae.networks.mlp and conv give such an encoder when they are passed the same posterior=."


class Posterior(Configured, Layer):
    """A map from the encoder's outputs to q(z|x).

    A Keras layer without a call: what a posterior learns beside the encoder is a weight of the model like any other.
    Every verb, evaluation and an exported encoder give the q(z|x) that it makes of the encoder's outputs. A subclass
    defines `outputs`, `distribution_class`, `latent_shape` and `distribution`; `noise_shape` if z is not made of as
    many variates as it has elements, `output_shapes` for `keras_vae.networks`, and `make_weights` if it learns.
    """

    outputs: tuple[str, ...]  # Names of what the encoder returns, in the bundle too.
    distribution_class: type[Distribution] = Distribution  # of what `distribution` returns
    zero_at_start: tuple[str, ...] = ()  # Names of outputs that are 0 in a new encoder of `keras_vae.networks`.

    def __init__(self):
        super().__init__(dtype="float32")
        self.built = True
        self.bound_to: tuple[Any, ...] | None = None

    def read(self, outputs: Any) -> tuple[Any, ...]:
        """The encoder's outputs in the order of `outputs`: by name where it returns a dict, else by position.

        Raises:
            ValueError: If the encoder returned something else; says what it must return.
        """
        if isinstance(outputs, dict):  # by name, never by position: Keras sorts the keys
            if set(outputs) != set(self.outputs):
                raise ValueError(
                    f"The encoder returned a dict with keys {sorted(outputs)}; for {self!r} it must have exactly the "
                    f"keys {sorted(self.outputs)}: {_NETWORKS}"
                )
            return tuple(outputs[name] for name in self.outputs)
        found = tuple(outputs) if isinstance(outputs, list | tuple) else (outputs,)
        if len(found) != len(self.outputs):
            raise ValueError(
                f"The encoder returned {len(found)} tensor{'s' if len(found) > 1 else ''}; for {self!r} it must return "
                f"{len(self.outputs)}, {', '.join(self.outputs)}: {_NETWORKS}"
            )
        return found

    def latent_shape(self, outputs: Any) -> tuple[int | None, ...]:
        """Shape of one z for symbolic outputs of the encoder; None is a free size.

        Raises:
            ValueError: If their shapes do not fit together; says how to change the encoder.
        """
        raise NotImplementedError

    def noise_shape(self, latent_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Shape of the N(0, 1) variates that one draw is made of; () if it draws nothing."""
        return latent_shape

    def output_shapes(self, latent_shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """Shape of each of `outputs` for one example, by name: what `keras_vae.networks` builds."""
        return dict.fromkeys(self.outputs, latent_shape)

    def usual_prior(self, latent_shape: tuple[int | None, ...]) -> Distribution:
        """p(z) of a model that is given none: N(0, I)."""
        return DiagonalNormal.standard(*latent_shape)

    def bind(self, latent_shape: tuple[int | None, ...], shapes: tuple[tuple[int | None, ...], ...]) -> None:
        """Makes the weights, once the model knows its shapes.

        Args:
            latent_shape: Shape of one z.
            shapes: Shape of each of `outputs` for one example.

        Raises:
            ValueError: If it has weights, for a model of other shapes.
        """
        if self.bound_to == (latent_shape, shapes):
            return
        has_weights = self.weights or len([*self._flatten_layers()]) > 1  # of which it is the first
        if self.bound_to is not None and has_weights:
            raise ValueError(
                f"{self!r} has weights for a model with latents of shape {self.bound_to[0]}, whose encoder returns "
                f"{self.bound_to[1]}; this one has {latent_shape} and {shapes}: make a new posterior."
            )
        self.make_weights(latent_shape, shapes)
        self.bound_to = latent_shape, shapes

    def make_weights(self, latent_shape: tuple[int | None, ...], shapes: tuple[tuple[int | None, ...], ...]) -> None:
        """Makes the weights, with `add_weight` or of layers; called once, by `bind`, with its arguments."""

    def distribution(self, outputs: Any, training: bool = False) -> Distribution:
        """q(z|x) in float32 for the encoder's outputs of a batch."""
        raise NotImplementedError


def one_shape(posterior: Posterior, names: tuple[str, ...], tensors: tuple[Any, ...]) -> tuple[int | None, ...]:
    """The shape, without the batch, that all these outputs of an encoder must have.

    Raises:
        ValueError: If they differ, or have no axis but the batch's, or no number of channels.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in zip(names, tensors, strict=True)}
    first, *others = shapes.values()
    if any(other != first for other in others):
        listed = " and ".join(f"{name} of shape {shape}" for name, shape in shapes.items())
        raise ValueError(
            f"The encoder returns {listed}; for {posterior!r} they must agree: give the heads the same number of units."
        )
    if len(first) < 2 or first[-1] is None:
        raise ValueError(
            f"The encoder's outputs have shape {first}; they must have shape (batch, ..., channels), such as (batch, "
            "16), with a last size that is known."
        )
    return first[1:]


def check_output_shapes(posterior: Posterior, latent_shape: tuple[int, ...], tensors: dict[str, Any]) -> None:
    """Raises a ValueError unless these outputs of an encoder have the shapes that go with z of `latent_shape`."""
    expected = posterior.output_shapes(latent_shape)
    for name, tensor in tensors.items():
        if tuple(tensor.shape[1:]) != expected[name]:
            raise ValueError(
                f"The encoder returns {name} of shape {('batch', *tensor.shape[1:])}; for {posterior!r} and z of shape "
                f"{latent_shape} it must be {('batch', *expected[name])}: {_NETWORKS}"
            )
