"""What Keras saves of an object that is described by the arguments of its constructor."""

from typing import Any, Self


class Configured:
    """Mixed into whatever a model is configured with: likelihoods, objectives, schedules."""

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
