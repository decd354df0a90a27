"""`model.fit` of Keras models: ours, and the variational autoencoder of Keras's own tutorial, made to this problem."""

import keras
import problem

import keras_vae


def _epoch(model, x, batch_size):
    return lambda: model.fit(x, batch_size=batch_size, epochs=1, verbose=0).history["loss"][-1]


def ours(x, batch_size, **compile):
    """keras_vae, with the arguments of `compile`."""
    encoder, decoder = keras_vae.networks.mlp(
        (problem.PIXELS,), problem.LATENTS, hidden=(problem.HIDDEN,), activation="tanh"
    )
    model = keras_vae.VAE(encoder, decoder, "bce", seed=0)
    model.compile(keras.optimizers.Adam(problem.LEARNING_RATE), **compile)
    return _epoch(model, x, batch_size)
