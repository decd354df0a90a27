"""pythae's trainer on the hand-written PyTorch networks; needs torch, NumPy and pythae, and no Keras."""

import os

os.environ["TQDM_DISABLE"] = "1"  # its progress bar: nobody else has one

import tempfile

import torch
from loop import Loop, timed
from problem import LEARNING_RATE
from pythae.data.datasets import BaseDataset
from pythae.models import VAE, VAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from pythae.trainers import BaseTrainer, BaseTrainerConfig
from torch_loops import VAE as Networks
from torch_loops import images


class Encoder(BaseEncoder):
    def __init__(self, networks):
        super().__init__()
        self.networks = networks

    def forward(self, x):
        mean, log_var = self.networks.encode(x)
        return ModelOutput(embedding=mean, log_covariance=log_var)


class Decoder(BaseDecoder):
    def __init__(self, networks):
        super().__init__()
        self.networks = networks

    def forward(self, z):
        return ModelOutput(reconstruction=torch.sigmoid(self.networks.decode(z)))


def trainer(problem, x):
    """`BaseTrainer.train_step`, which is an epoch, as `BaseTrainer.train` calls it.

    Left out is what `train` does between epochs: the deep copy of the best model, its file, and the log.
    """
    networks, data = Networks(problem), images(x)
    config = VAEConfig(input_dim=tuple(data.shape[1:]), latent_dim=problem.latents, reconstruction_loss="bce")
    model = VAE(config, Encoder(networks), Decoder(networks))
    with tempfile.TemporaryDirectory() as folder:
        training = BaseTrainerConfig(
            output_dir=folder, per_device_train_batch_size=problem.batch_size, learning_rate=LEARNING_RATE
        )
        made = BaseTrainer(model, BaseDataset(data, torch.zeros(len(data))), training_config=training)
        made.prepare_training()
    epochs = iter(range(1, 10**9))
    return Loop(timed(lambda: made.train_step(next(epochs))), lambda: list(networks.parameters()))
