"""ctgan's TVAE with its defaults, in an environment that has it: reads a table and writes as many synthetic rows.

    python ctgan_tvae.py real.csv synthetic.csv SEED EPOCHS CATEGORY...

Prints the seconds of processor time that it took. The rest are the names of the columns that are categories.
"""

import sys
import time

import numpy as np
import pandas
import torch
from ctgan import TVAE


def main(source, target, seed, epochs, *categories):
    frame = pandas.read_csv(source)
    np.random.seed(int(seed))  # noqa: NPY002 # that of its mixtures
    torch.manual_seed(int(seed))
    started = time.process_time()
    model = TVAE(epochs=int(epochs), enable_gpu=False)
    model.fit(frame, categories)
    model.sample(len(frame)).to_csv(target, index=False)
    print(time.process_time() - started)


if __name__ == "__main__":
    main(*sys.argv[1:])
