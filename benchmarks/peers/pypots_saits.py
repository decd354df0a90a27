"""PyPOTS' SAITS on tables, in an environment that has pypots: reads an npz of tables with holes and fills them in.

    python pypots_saits.py tables.npz filled.npz EPOCHS [columns]

`table0`, `table1` and so on are `(rows, columns)`, standardised, NaN where a value is missing; written are `filled0`
and `seconds`. PyPOTS is for time series: a row is a series of one step that has every column, or, with `columns`, one
of as many steps as there are columns, each a number, between which its attention works.
"""

import sys
import time

import numpy as np
import torch
from pypots.imputation import SAITS


def main(source, target, epochs, form="step"):
    filled, seconds = {}, []
    with np.load(source) as data:
        for run in range(len(data.files)):
            x = data[f"table{run}"]
            x = x[:, :, None] if form == "columns" else x[:, None]
            np.random.seed(run)  # noqa: NPY002 # that of the values that it hides in training
            torch.manual_seed(run)
            started = time.process_time()
            # The README's example of SAITS; of series as long as a table is wide it is a quarter as wide.
            width = 64 if form == "columns" else 256
            model = SAITS(x.shape[1], x.shape[2], 2, width, 4, width // 4, width // 4, 128, 0.1, epochs=int(epochs))
            model.fit({"X": x})
            filled[f"filled{run}"] = model.impute({"X": x}).reshape(len(x), -1)
            seconds.append(time.process_time() - started)
    np.savez(target, **filled, seconds=np.array(seconds))


if __name__ == "__main__":
    main(*sys.argv[1:])
