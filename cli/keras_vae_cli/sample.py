"""`keras-vae sample`: a picture, an array or a table of what the model draws."""

import argparse
import pathlib

import numpy as np

from keras_vae import _files, plotting
from keras_vae_cli import runs


def run(given: argparse.Namespace) -> None:
    """Writes samples of a trained model as a picture, an array or a table."""
    vae = runs.load_model(given.model, given.modules)
    table = runs.load_table(given.model, vae)
    output = pathlib.Path(given.output or ("samples.png" if table is None else "samples.csv"))
    runs.check_output(output, given.overwrite)
    if output.suffix == ".npy":
        with _files.atomic_file(output) as temporary:
            np.save(temporary, vae.sample(given.num, seed=given.seed))
    elif runs.is_table(output):
        if table is None:
            words = "a table is for a model of a table, or of numbers whose summary.json names the columns; take .npy."
            raise ValueError(f"{output.suffix}: {words}")
        with _files.atomic_file(output) as temporary:
            runs.write_draws(vae, table, given.num, given.seed, temporary)
    elif output.suffix == ".png":
        plotting.samples(vae, given.num, output, seed=given.seed)
    else:
        raise ValueError(
            f"--output must end in .png (a picture), .npy (an array), .csv, .tsv or .parquet (a table); got {output}."
        )
    print(f"Wrote {given.num} samples to {output}.")
