"""`keras-vae sample`: a picture, an array or a table of what the model draws."""

import argparse
import pathlib

import numpy as np

from keras_vae import _files, plotting
from keras_vae_cli import runs


def run(given: argparse.Namespace) -> None:
    """Writes samples of a trained model as a picture, an array or a table."""
    vae = runs.load_model(given.model, given.modules)
    output = pathlib.Path(given.output)
    if output.suffix == ".npy":
        with _files.atomic_file(output) as temporary:
            np.save(temporary, vae.sample(given.num, seed=given.seed))
    elif output.suffix == ".csv":
        columns = runs.load_columns(given.model)
        if columns is None:
            raise ValueError("a .csv is for a model of a table, whose summary.json names the columns; take .npy.")
        with _files.atomic_file(output) as temporary:
            runs.write_table(temporary, columns, vae.sample(given.num, seed=given.seed, draw=True))
    elif output.suffix == ".png":
        plotting.samples(vae, given.num, output, seed=given.seed)
    else:
        raise ValueError(f"--output must end in .png (a picture), .npy (an array) or .csv (a table); got {output}.")
    print(f"Wrote {given.num} samples to {output}.")
