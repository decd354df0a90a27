"""Runs bundles of exported variational autoencoders with onnxruntime. Needs NumPy and onnxruntime, and no Keras.

`Pipeline` is where to start: encode, decode, reconstruct, sample, score. `Manifest` says what is in a bundle, `Session`
runs one of its graphs.
"""

from keras_vae_serving import _requirements as _requirements  # first: says what is missing
from keras_vae_serving.manifest import BundleError as BundleError
from keras_vae_serving.manifest import Graph as Graph
from keras_vae_serving.manifest import Manifest as Manifest
from keras_vae_serving.manifest import Tensor as Tensor
from keras_vae_serving.pipeline import Pipeline as Pipeline
from keras_vae_serving.pipeline import Posterior as Posterior
from keras_vae_serving.providers import ProviderError as ProviderError
from keras_vae_serving.session import Session as Session
