from keras_vae.data import *  # noqa
from keras_vae._network_inputs import *  # noqa
