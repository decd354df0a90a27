"""PyOD's VAE with its defaults, in an environment that has pyod and torch: reads an npz of runs and writes its scores.

    python pyod_vae.py runs.npz scores.npz

`train0`, `test0` and so on are the rows of each run; written are `score0`, higher for an anomaly, and `seconds`.
"""

import sys
import time

import numpy as np
from pyod.models.vae import VAE


def main(source, target):
    with np.load(source) as data:
        runs = len(data.files) // 2
        scores, seconds = {}, []
        for run in range(runs):
            started = time.perf_counter()
            detector = VAE(random_state=run, verbose=0).fit(data[f"train{run}"])
            scores[f"score{run}"] = detector.decision_function(data[f"test{run}"])
            seconds.append(time.perf_counter() - started)
    np.savez(target, **scores, seconds=np.array(seconds))


if __name__ == "__main__":
    main(*sys.argv[1:])
