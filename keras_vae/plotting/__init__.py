"""Pictures of what a model does (reconstructions, samples, the latent space) and of how it was trained.

Each function returns a matplotlib Figure, made without pyplot so that no window or global state is involved, and
writes it if a path is given. Data that are images, `(height, width)` or with 1, 3 or 4 channels, are drawn as such;
anything else as curves. Latents are numbered from 0, as the columns of `vae.encode(x).mean` are.
"""

from keras_vae.plotting._figure import DPI as DPI
from keras_vae.plotting.history import training_curves as training_curves
from keras_vae.plotting.latents import kl_per_unit as kl_per_unit
from keras_vae.plotting.latents import latent_scatter as latent_scatter
from keras_vae.plotting.tiles import is_image as is_image
from keras_vae.plotting.tiles import manifold as manifold
from keras_vae.plotting.tiles import reconstructions as reconstructions
from keras_vae.plotting.tiles import samples as samples
from keras_vae.plotting.tiles import traversals as traversals
