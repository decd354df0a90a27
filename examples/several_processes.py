"""Two processes train one model on PyTorch, each on half of the data:

    KERAS_BACKEND=torch torchrun --nproc-per-node=2 examples/several_processes.py

`fit` detects the process group and combines the gradients, so that the result equals that of one process with the batch
of both; the logs are those of all the data. JAX and TensorFlow need no second process: see docs/guide/backends.md.
"""

import keras
from torch import distributed

import keras_vae


def main():
    distributed.init_process_group("gloo")
    rank, world_size = distributed.get_rank(), distributed.get_world_size()
    data = keras_vae.datasets.load("digits", binarize="threshold")
    share = data.train[rank::world_size][: len(data.train) // world_size]  # shares of equal length

    vae = keras_vae.VAE(*keras_vae.networks.mlp((8, 8, 1), latent_dim=8, hidden=(256,)), seed=0)
    vae.compile(keras.optimizers.Adam(2e-3))
    vae.fit(share, batch_size=64 // world_size, epochs=5, verbose=2 if rank == 0 else 0)
    if rank == 0:
        vae.save("digits.keras")  # the models of all processes are equal
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
