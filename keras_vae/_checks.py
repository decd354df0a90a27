from keras_vae.validation import *  # noqa
