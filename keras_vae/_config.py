"""What Keras saves of an object that is described by the arguments of its constructor."""


class Configured:
    """Mixed into whatever a model is configured with: likelihoods, objectives, schedules."""

    def get_config(self):
        """The arguments of the constructor, by name."""
        return {}

    @classmethod
    def from_config(cls, config):
        return cls(**config)

    def __repr__(self):
        # In place of its own config, an argument that has one: a schedule, say.
        values = {k: getattr(self, k, v) if isinstance(v, dict) else v for k, v in self.get_config().items()}
        arguments = ", ".join(f"{key}={value!r}" for key, value in values.items())
        return f"{type(self).__name__}({arguments})"
