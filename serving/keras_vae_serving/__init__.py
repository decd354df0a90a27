"""Runs bundles of exported variational autoencoders with onnxruntime. Needs NumPy and onnxruntime, and no Keras.

Start with `Pipeline`: encode, decode, reconstruct, sample, score. `Manifest` describes a bundle, `Session` runs one of
its graphs. The server is in `keras_vae_serving.http`, which needs the packages of the extra "serving".
"""

from keras_vae_serving import _requirements as _requirements  # first: says what is missing
from keras_vae_serving.errors import RequestError as RequestError
from keras_vae_serving.manifest import BundleError as BundleError
from keras_vae_serving.manifest import GraphSpec as GraphSpec
from keras_vae_serving.manifest import Manifest as Manifest
from keras_vae_serving.manifest import PosteriorSpec as PosteriorSpec
from keras_vae_serving.manifest import Tensor as Tensor
from keras_vae_serving.pipeline import GraphPosterior as GraphPosterior
from keras_vae_serving.pipeline import Pipeline as Pipeline
from keras_vae_serving.providers import ProviderError as ProviderError
from keras_vae_serving.session import Session as Session
from keras_vae_serving.verbs import Posterior as Posterior
