"""Bundles over HTTP: the Open Inference Protocol, health, metrics and a page.

Whatever arrives is answered, either with a result or with the protocol's `{"error": "..."}` and a sentence that says
what to do. Nothing is read, kept or queued without a bound, and a bound is checked before memory is taken.
"""

from keras_vae_serving.http.access import TOKEN_VARIABLE as TOKEN_VARIABLE
from keras_vae_serving.http.app import create_app as create_app
from keras_vae_serving.http.budget import Limits as Limits
