"""A table as people keep them: text, whole numbers, floats, marks of missing cells, a column that names the rows.

The trade says the wage up to a few percent, and the grade; the town tells nothing. A German spreadsheet wrote it.
"""

import pathlib

import numpy as np

NAMES = ("id", "trade", "wage", "grade", "town")
WAGES = {"baker": 1500.0, "miner": 3000.0, "pilot": 6000.0}
GRADES = {"baker": 1, "miner": 5, "pilot": 9}
MARKS = ("", "NA", " ? ", "null")


def write(path, n=900, missing=0.1):
    """Writes the file and returns its rows: `(n, 5)` text, and which cells are missing."""
    rng = np.random.default_rng(0)
    trades = rng.choice(list(WAGES), n)
    wages = [f"{WAGES[trade] * (1 + 0.03 * rng.normal()):.2f}" for trade in trades]
    towns = rng.choice(["Graz", 'Wien "Mitte"; 1. Bezirk'], n)
    rows = np.array(
        [[f"P{i}" for i in range(n)], trades, wages, [f"{GRADES[trade]}" for trade in trades], towns], dtype=object
    ).T
    is_missing = rng.random(rows.shape) < missing
    is_missing[:, [0, 4]] = False
    is_missing[is_missing[:, 1:4].all(axis=1), 1] = False  # something tells the trade
    rows[is_missing] = rng.choice(MARKS, is_missing.sum())
    lines = [";".join(NAMES), *(";".join([*row[:4], quoted(row[4])]) for row in rows)]
    pathlib.Path(path).write_bytes(("\ufeff" + "\r\n".join(lines) + "\r\n").encode())
    return rows, is_missing


def quoted(cell):
    return '"' + cell.replace('"', '""') + '"' if ";" in cell else cell
