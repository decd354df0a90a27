"""Keras callbacks: what goes wrong while a VAE trains, in words, and what it does meanwhile, in pictures."""

from keras_vae.callbacks.latent_monitor import LatentMonitor as LatentMonitor
from keras_vae.callbacks.latent_monitor import collapse_report as collapse_report
from keras_vae.callbacks.non_finite import NonFiniteGuard as NonFiniteGuard
from keras_vae.callbacks.reconstruction_grid import ReconstructionGrid as ReconstructionGrid
