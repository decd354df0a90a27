"""Exports a trained variational autoencoder to ONNX files, which are run and compared with the model first.

`export` writes a bundle, `check` verifies one anywhere. `graphs.py` says what is exported, `converters/` how it is
converted, `parity.py` how it is compared.
"""

from keras_vae_export import _requirements as _requirements  # first: says what is missing
from keras_vae_export.bundle import check as check
from keras_vae_export.bundle import export as export
from keras_vae_export.errors import AccuracyError as AccuracyError
from keras_vae_export.errors import ConversionError as ConversionError
from keras_vae_export.errors import ExportError as ExportError
from keras_vae_export.errors import ParityError as ParityError
from keras_vae_export.errors import StructureError as StructureError
