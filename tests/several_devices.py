"""Trains a model on one device or on two, and writes what came out: started by test_several_devices.py.

    several_devices.py BACKEND one|two FILE [noise]

Without `noise` the posterior is nearly a point, so that different noise on each device changes nothing that is seen.
"""

import os
import sys

backend, devices, file, *noise = sys.argv[1:]
os.environ["KERAS_BACKEND"] = backend
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"

import keras  # noqa: E402
import numpy as np  # noqa: E402
from keras import layers  # noqa: E402

import keras_vae  # noqa: E402

EXAMPLES, BATCH = 96, 32
if backend == "tensorflow":
    EXAMPLES = 97  # the last batch has one example, and leaves one of the replicas without


def make():
    keras.utils.set_random_seed(1)
    x = keras.Input((8, 8, 1))
    h = layers.Dense(8, activation="tanh")(layers.Flatten()(x))
    log_var = layers.Dense(2, kernel_initializer="zeros", bias_initializer="zeros" if noise else _Minus30())
    log_var.trainable = bool(noise)
    encoder = keras.Model(x, (layers.Dense(2)(h), log_var(h)))
    decoder = keras_vae.networks.mlp((8, 8, 1), 2, hidden=(8,))[1]
    vae = keras_vae.VAE(encoder, decoder, seed=3)
    vae.compile(keras.optimizers.SGD(1e-3, momentum=0.5))
    return vae


class _Minus30(keras.initializers.Initializer):
    def __call__(self, shape, dtype=None):
        return keras.ops.full(shape, -30.0, dtype)


def fit(vae, x, batch_size=BATCH):
    history = vae.fit(x, batch_size=batch_size, epochs=3, shuffle=False, verbose=0, validation_data=(x,)).history
    return {name: values for name, values in history.items() if name != "val_kl"}


def main():
    x = keras_vae.datasets.load("digits", binarize="threshold").train[:EXAMPLES]
    drawn = np.zeros((1, 1, 1))
    if devices == "one":
        vae = make()
        history = fit(vae, x)
    elif backend == "tensorflow":
        vae, history, drawn = _mirrored(x)
    elif backend == "jax":
        import jax

        assert len(jax.devices()) == 2
        keras.distribution.set_distribution(keras.distribution.DataParallel(devices=jax.devices()))
        vae = make()
        history = fit(vae, x)
    else:
        vae, history, drawn = _two_processes(x)
        if vae is None:
            return
    weights = {f"weight_{i}": weight for i, weight in enumerate(vae.get_weights()) if weight.dtype.kind == "f"}
    np.savez(file, drawn=drawn, **weights, **history)


def _mirrored(x):
    import tensorflow as tf

    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
    )
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    assert strategy.num_replicas_in_sync == 2
    with strategy.scope():
        vae = make()
    history = fit(vae, x)
    drawn = strategy.run(tf.function(lambda: vae.noise(4)))
    return vae, history, np.stack([part.numpy() for part in strategy.experimental_local_results(drawn)])


def _two_processes(x):
    from torch import distributed

    distributed.init_process_group("gloo")
    rank, world = distributed.get_rank(), distributed.get_world_size()
    vae = make()
    if rank == 1:  # whatever the second process begins with, it takes over the first one's
        vae.set_weights([weight + 1 for weight in vae.get_weights()])
    history = fit(vae, x[rank::world], BATCH // world)
    drawn = [None] * world
    distributed.all_gather_object(drawn, vae.noise(4).numpy())
    others = [None] * world
    distributed.all_gather_object(others, [vae.get_weights(), history])
    for one, other in zip(others[0][0], others[1][0], strict=True):
        np.testing.assert_array_equal(one, other)
    assert others[0][1] == others[1][1]
    distributed.destroy_process_group()
    return (vae, history, np.stack(drawn)) if rank == 0 else (None, None, None)


if __name__ == "__main__":
    main()
