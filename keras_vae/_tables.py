"""Tables with numeric columns, from files: CSV by Python alone, Parquet by polars, which is installed for it only."""

import csv
import importlib
import itertools
import pathlib
import warnings
from typing import Any

import numpy as np

SUFFIXES: tuple[str, ...] = (".csv", ".tsv", ".parquet")
_MISSING = frozenset({"", "na", "n/a", "nan", "null", "none"})  # in lower case


def read(path: pathlib.Path) -> tuple[tuple[str, ...], np.ndarray]:
    """The names of the columns of a table and its numbers, `(rows, columns)` float64, with NaN for an empty cell.

    The first line of a CSV file holds names unless all of its cells are numbers; then the names are "0", "1", ...

    Raises:
        ValueError: If a column holds text, or the rows differ in length; names the column, or the line.
        ModuleNotFoundError: If polars, which reads Parquet, is not installed.
    """
    names, x = _from_parquet(path) if path.suffix.lower() == ".parquet" else _from_csv(path)
    if names and names[0] == "" and np.array_equal(x[:, 0], np.arange(len(x))):
        warnings.warn(f"The first column of {path} has no name and counts the rows: it is left out.", stacklevel=2)
        names, x = names[1:], x[:, 1:]
    twice = sorted({name for name in names if list(names).count(name) > 1})
    if twice:
        raise ValueError(f"Two columns of {path} are called {twice[0]!r}: give each a name of its own.")
    return tuple(names), x


def _from_csv(path):
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            delimiter = max(",;\t", key=first.count)  # a comma where none is there
            lines = csv.reader(itertools.chain([first], file), delimiter=delimiter)
            rows = [(lines.line_num, row) for row in lines if row]  # without empty lines
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} cannot be read as a table of text in UTF-8 ({error}).") from None
    if not rows:
        raise ValueError(f"{path} is empty.")
    names = [cell.strip() for cell in rows[0][1]]
    if all(_number(name) is not None for name in names):
        warnings.warn(f"The first line of {path} holds numbers: it is read as a row, not as names.", stacklevel=3)
        names = [str(i) for i in range(len(names))]
    else:
        rows = rows[1:]
    x = np.empty((len(rows), len(names)))
    for i, (line, row) in enumerate(rows):
        if len(row) != len(names):
            raise ValueError(f"Line {line} of {path} has {len(row)} cells, but the first has {len(names)}.")
        for j, cell in enumerate(row):
            number = _number(cell)
            if number is None:
                raise _text(path, names[j], f"{cell.strip()!r} in line {line}")
            x[i, j] = number
    return names, x


def _from_parquet(path):
    try:
        polars: Any = importlib.import_module("polars")
    except ModuleNotFoundError:
        words = f'{path} is a Parquet file, which needs polars: pip install "keras-vae[tables]".'
        raise ModuleNotFoundError(words, name="polars") from None
    try:
        table = polars.read_parquet(path)
    except (OSError, polars.exceptions.PolarsError) as error:
        raise ValueError(f"{path} cannot be read as a Parquet file ({error}).") from None
    for name, kind in table.schema.items():
        if not kind.is_numeric() and kind != polars.Boolean:
            raise _text(path, name, f"its type is {kind}")
    return table.columns, table.select(polars.all().cast(polars.Float64)).to_numpy()


def _number(cell):
    """A cell as a float, NaN if it is empty; None if it is text."""
    cell = cell.strip()
    if cell.lower() in _MISSING:
        return np.nan
    try:
        return None if "_" in cell else float(cell)  # Python takes 1_000 for a number, a table does not
    except ValueError:
        return None


def _text(path, name, what):
    return ValueError(
        f"Column {name!r} of {path} is not numeric ({what}). Leave the column out, or encode it as numbers."
    )
