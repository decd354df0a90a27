"""Numbers about a trained model.

    what is log p(x)?            log_likelihood, annealed_log_likelihood, held_out (the ELBO), bits_per_dim
    is my KL zero?               active_units, kl_per_unit
    what do the latents hold?    elbo_surgery, aggregate_posterior
    are samples worse than data? fit_aggregate_posterior, fit_prior: priors that the codes match
    how large are the codes?     latent_statistics, by which encode and decode standardize them
    is a latent one factor?      mig, dci, sap
    is this an outlier?          fit_threshold, anomalies; surprise says where
    do intervals hold?           coverage of draws of x, and of imputations

All noise comes from NumPy: the same seed gives the same numbers on every backend, however the work is split.
"""

from keras_vae.evaluation.aggregate import fit_aggregate_posterior as fit_aggregate_posterior
from keras_vae.evaluation.annealed import annealed_log_likelihood as annealed_log_likelihood
from keras_vae.evaluation.anomaly import Threshold as Threshold
from keras_vae.evaluation.anomaly import anomalies as anomalies
from keras_vae.evaluation.anomaly import fit_threshold as fit_threshold
from keras_vae.evaluation.anomaly import surprise as surprise
from keras_vae.evaluation.bound import LogLikelihood as LogLikelihood
from keras_vae.evaluation.bound import bits_per_dim as bits_per_dim
from keras_vae.evaluation.bound import held_out as held_out
from keras_vae.evaluation.bound import log_likelihood as log_likelihood
from keras_vae.evaluation.coverage import Coverage as Coverage
from keras_vae.evaluation.coverage import coverage as coverage
from keras_vae.evaluation.disentanglement import DCI as DCI
from keras_vae.evaluation.disentanglement import dci as dci
from keras_vae.evaluation.disentanglement import mig as mig
from keras_vae.evaluation.disentanglement import sap as sap
from keras_vae.evaluation.fit_prior import fit_prior as fit_prior
from keras_vae.evaluation.latents import Surgery as Surgery
from keras_vae.evaluation.latents import active_units as active_units
from keras_vae.evaluation.latents import aggregate_posterior as aggregate_posterior
from keras_vae.evaluation.latents import elbo_surgery as elbo_surgery
from keras_vae.evaluation.latents import kl_per_unit as kl_per_unit
from keras_vae.evaluation.latents import latent_statistics as latent_statistics
