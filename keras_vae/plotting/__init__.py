"""Pictures of what a model does (reconstructions, samples, the latent space) and of how it was trained.

Each function returns a matplotlib Figure, made without pyplot so that no window or global state is involved, and
writes it if a path is given. Pictures are drawn as such; a series, `(steps, channels)`, as a line for each channel; the
row of a table as a line over its columns, each with a scale of its own. `is_image` has the rule for data of two axes,
which the page of `keras_vae_serving` shares. Latents are numbered from 0, as the columns of `vae.encode(x).mean` are.
"""

from keras_vae.plotting._figure import DPI as DPI
from keras_vae.plotting._figure import require_one_tensor as require_one_tensor
from keras_vae.plotting.history import training_curves as training_curves
from keras_vae.plotting.latents import kl_per_unit as kl_per_unit
from keras_vae.plotting.latents import latent_scatter as latent_scatter
from keras_vae.plotting.tiles import examples as examples
from keras_vae.plotting.tiles import is_image as is_image
from keras_vae.plotting.tiles import manifold as manifold
from keras_vae.plotting.tiles import reconstructions as reconstructions
from keras_vae.plotting.tiles import samples as samples
from keras_vae.plotting.tiles import traversals as traversals
