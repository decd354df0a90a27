"""Objects that are described by the arguments of their constructor, and the layers that hold them."""

from typing import Any, Self

import keras


def forget(owner: Any, name: str) -> None:
    """Lets a layer go that an attribute of another layer holds, before another object takes its place.

    Keras would go on to train and save it, and PyTorch lets a module be replaced by a module only.
    """
    old = getattr(owner, name, None)
    if isinstance(old, keras.layers.Layer):
        owner._tracker.untrack(old)
        owner._tracker.unlock()
        delattr(owner, name)


def require_method(kind: type, base: type, methods: tuple[str, ...], purpose: str) -> None:
    """Raises a TypeError unless a class of the user's own defines one of the methods that its base leaves open.

    Args:
        kind, base: The class and its base.
        methods: Names, of which one suffices; the message names the first.
        purpose: Arguments of the method, and what it is for.
    """
    if all(getattr(kind, name) is getattr(base, name) for name in methods):
        raise TypeError(f"{kind.__name__} defines no {methods[0]}{purpose}: see {base.__name__}.{methods[0]}.")


class Configured:
    """Mixed into whatever a model is configured with: likelihoods, posteriors, priors, objectives, schedules."""

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, keras.layers.Layer) and "built" not in vars(self):
            # PyTorch would say something else, and Keras nothing.
            raise TypeError(
                f"{type(self).__name__}.__init__ assigns self.{name}, a layer, before it calls super().__init__(): "
                "call that first."
            )
        super().__setattr__(name, value)

    def quantize(self, mode: Any = None, **kwargs: Any) -> None:
        """Nothing: `Model.quantize` asks every layer, and these have no kernels."""

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor, by name."""
        return {}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """The object that `get_config` describes."""
        return cls(**config)

    def __repr__(self) -> str:
        # An argument that has a config is shown as the object itself: a schedule, say.
        values = {k: getattr(self, k, v) if isinstance(v, dict) else v for k, v in self.get_config().items()}
        arguments = ", ".join(f"{key}={value!r}" for key, value in values.items())
        return f"{type(self).__name__}({arguments})"
