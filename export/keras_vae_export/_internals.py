"""Names of the two other packages that the exporter uses and that are not public, in one place."""

from keras_vae._backend import compile as compile_function
from keras_vae._containers import first
from keras_vae._files import atomic_folder
from keras_vae._network_inputs import embedded_inputs
from keras_vae.data import Batch
from keras_vae.posteriors import Normal
from keras_vae.validation import whole_number
from keras_vae_serving.manifest import GraphSpec


def encoder_outputs(outputs):
    """(mean, log_var) from what the encoder of a pair returned."""
    return Normal().read(outputs)


__all__ = (
    "Batch",
    "GraphSpec",
    "atomic_folder",
    "compile_function",
    "embedded_inputs",
    "encoder_outputs",
    "first",
    "whole_number",
)
