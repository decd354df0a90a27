"""Numbers about a trained model."""

import math


def bits_per_dim(nats, num_dimensions):
    """Nats per example as bits per data dimension: nats / (num_dimensions * log 2).

    Of a negative ELBO it is an upper bound of the bits that a lossless code needs for each dimension, where the
    likelihood is discrete; for a density it depends on the units of the data and can be negative.
    """
    return nats / (num_dimensions * math.log(2.0))
