"""Names of the two other packages that the exporter uses and that are not public or about to move, in one place."""

from keras_vae._checks import encoder_outputs, whole_number
from keras_vae._conditions import embedded_inputs, input_dtype, takes_condition
from keras_vae._files import atomic_folder
from keras_vae._train_step import compiled as compile_function
from keras_vae_serving.manifest import Graph as GraphSpec

__all__ = (
    "GraphSpec",
    "atomic_folder",
    "compile_function",
    "embedded_inputs",
    "encoder_outputs",
    "input_dtype",
    "takes_condition",
    "whole_number",
)
