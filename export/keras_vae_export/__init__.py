"""Exports a trained variational autoencoder to ONNX: a folder that has been run and compared before it appears.

`export` writes a bundle, `check` verifies one anywhere. What is exported is in `graphs.py`, how it is converted in
`converters/`, how it is compared in `parity.py`.
"""

from keras_vae_export import _requirements as _requirements  # first: says what is missing
from keras_vae_export.bundle import check as check
from keras_vae_export.bundle import export as export
from keras_vae_export.errors import AccuracyError as AccuracyError
from keras_vae_export.errors import ConversionError as ConversionError
from keras_vae_export.errors import ExportError as ExportError
from keras_vae_export.errors import ParityError as ParityError
from keras_vae_export.errors import StructureError as StructureError
