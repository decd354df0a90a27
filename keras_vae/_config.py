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
        arguments = ", ".join(f"{key}={value!r}" for key, value in self.get_config().items())
        return f"{type(self).__name__}({arguments})"
