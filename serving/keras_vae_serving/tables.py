"""Rows by the names of their columns, as a person has them, to the array of a model and back.

The manifest's `table` says what the columns of a `keras_vae.tables.Table` are. The numbers and values are those of its
`to_array` and `to_frame`, bit for bit: this package may not import the other, and a test compares the two. What is
stricter here is what JSON makes likely: a number in quotes, `true` for a number, a column's name that is misspelt.
"""

import dataclasses
import difflib
import itertools
import math
import unicodedata
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np

from keras_vae_serving.errors import RequestError, abbreviate

_SHOWN = 8  # names in an error


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of a table.

    Args:
        name: Name of the column.
        kind: "real", "log" (the array holds the logarithm), "integer" or "category".
        categories: Values of a category, in the order of their one-hot columns.
        low, high: Bounds of a number.
        dtype: Type in the DataFrame: of the kind "log" that of whole numbers begins with Int or UInt.
    """

    name: str
    kind: str
    categories: tuple[Any, ...] = ()
    low: float = -math.inf
    high: float = math.inf
    dtype: str = "Float64"

    def __post_init__(self) -> None:
        known = isinstance(self.name, str) and self.kind in ("real", "log", "integer", "category")
        scalars = all(isinstance(value, str | bool | int | float) for value in self.categories)
        if not known or not scalars or (self.kind == "category") != bool(self.categories):
            raise ValueError(f"its table has a column that is none: {self}")
        object.__setattr__(self, "low", float(self.low))
        object.__setattr__(self, "high", float(self.high))

    @property
    def width(self) -> int:
        """Number of columns of the array."""
        return len(self.categories) or 1

    @property
    def is_whole(self) -> bool:
        """Whether its values are whole numbers."""
        return self.kind == "integer" or (self.kind == "log" and self.dtype.startswith(("Int", "UInt")))


class Table:
    """Rows to arrays, and back.

    Args:
        config: Entry `table` of the manifest.
        missing: Whether the model takes missing values.

    Attributes:
        columns: The columns in the order of the rows.
        in_array: The columns in the order of the array: numbers first, then categories.
        width: Number of columns of the array.
        missing: Whether the model takes missing values.

    Raises:
        ValueError, TypeError, KeyError: If the entry makes no sense.
    """

    def __init__(self, config: Sequence[Mapping[str, Any]], missing: bool = False) -> None:
        fields = [field.name for field in dataclasses.fields(Column)]
        entries = [{name: entry[name] for name in fields if name in entry} for entry in config]
        self.columns: list[Column] = [
            Column(**{**entry, "categories": tuple(entry.get("categories", ()))}) for entry in entries
        ]
        self.in_array: list[Column] = sorted(self.columns, key=lambda column: column.kind == "category")
        ends = list(itertools.accumulate(column.width for column in self.in_array))
        self.width: int = ends[-1] if ends else 0
        self.missing: bool = missing
        self._places = {c.name: slice(end - c.width, end) for c, end in zip(self.in_array, ends, strict=True)}
        if len(self._places) < len(self.columns):
            raise ValueError("its table has two columns of one name")
        self._names = {_composed(name): name for name in self._places} | {name: name for name in self._places}

    def to_array(self, rows: Any) -> np.ndarray:
        """The numbers of rows: `(n, width)` float32, with NaN where a value is missing.

        Args:
            rows: Dicts of values by the names of columns; None, NaN and an absent name are missing values. Or a
                DataFrame, of which columns of other names are left out.

        Raises:
            RequestError: If something else is in a row; says in which, counted from 0, and in which column.
        """
        rows = self.rows(rows)
        for i, row in enumerate(rows):
            if not isinstance(row, Mapping):
                raise RequestError(f"row {i} must hold values by the names of columns; got {abbreviate(row)}.")
            if not row.keys() <= self._places.keys():
                self._refuse(i, next(name for name in row if name not in self._places))
        x = np.zeros((len(rows), self.width), "float32")
        for column in self.columns:
            cells = [row.get(column.name) for row in rows]
            fill = _fill_categories if column.kind == "category" else _fill_numbers
            fill(column, cells, x[:, self._places[column.name]])
            absent = np.isnan(x[:, self._places[column.name].start])
            if not self.missing and absent.any():
                raise RequestError(
                    f"{_where(np.argmax(absent), column)}: there is no value, and this model takes no missing ones."
                )
        return x

    def to_rows(self, x: np.ndarray, given: Any = None) -> list[Any]:
        """Rows of the original types, of an array such as the model gives.

        A number is put between the least and the greatest that the table was fitted to, an integer rounded; a category
        is the one of the largest probability.

        Args:
            x: `(n, width)`, or `(n, draws, width)`, which becomes a list of rows for each of the n.
            given: The n rows that x was made of: what they hold stays as it is.
        """
        draws = 1 if x.ndim == 2 else x.shape[1]
        names = [column.name for column in self.columns]
        flat = x.reshape(-1, self.width)
        values = [_values(column, flat[:, self._places[column.name]]) for column in self.columns]
        rows = [dict(zip(names, row, strict=True)) for row in zip(*values, strict=True)]
        if given is not None:
            kept = [{name: value for name, value in row.items() if not _is_missing(value)} for row in self.rows(given)]
            rows = [row | kept[i // draws] for i, row in enumerate(rows)]
        return rows if x.ndim == 2 else [rows[i : i + draws] for i in range(0, len(rows), draws)]

    def rows(self, value: Any) -> list[Any]:
        """A list of rows with the names of columns spelt as here, of such a list or a DataFrame of pandas or polars."""
        if not is_frame(value):
            return [self._respelt(i, row) for i, row in enumerate(value)]
        found = {self._own(name): name for name in value.columns} | {name: name for name in value.columns}
        absent = next((column.name for column in self.columns if column.name not in found), None)
        if absent is not None:
            raise RequestError(f"the table has no column {absent!r}; it has {_listed(value.columns)}.")
        names = [column.name for column in self.columns]
        cells = zip(*(value[found[name]].to_list() for name in names), strict=True)
        return [dict(zip(names, row, strict=True)) for row in cells]

    def is_row(self, value: Mapping[str, Any]) -> bool:
        """Whether a dict is one row, and not arrays by the names that inputs usually have."""
        return bool(value) and {self._own(name) for name in value} <= self._places.keys() - {"x", "z", "condition"}

    def _own(self, name):
        """The column's name of an equivalent spelling; another name as it is."""
        return self._names.get(name, self._names.get(_composed(name), name))

    def _respelt(self, i, row):
        if not isinstance(row, Mapping) or row.keys() <= self._places.keys():
            return row
        found = {}
        for name, value in row.items():
            if (own := self._own(name)) in found:
                raise RequestError(f"row {i}: column {abbreviate(own)} is there twice, in two spellings.")
            found[own] = value
        return found

    def _refuse(self, i, name):
        close = difflib.get_close_matches(name, self._places, 1) if isinstance(name, str) and len(name) <= 40 else []
        meant = f"; did you mean {close[0]!r}?" if close else "."
        names = _listed(column.name for column in self.columns)
        raise RequestError(f"row {i}: there is no column {abbreviate(name)}{meant} The columns are {names}.")


def is_table(value: Any) -> bool:
    """Whether a value is meant as rows by the names of columns: a list with a dict in it, or a DataFrame."""
    return is_frame(value) or (isinstance(value, list | tuple) and any(isinstance(row, Mapping) for row in value))


def is_frame(value: Any) -> bool:
    """Whether a value is a DataFrame of pandas or polars, neither of which is imported here."""
    return hasattr(value, "columns") and hasattr(value, "dtypes")


def _fill_numbers(column, cells, x):
    numbers: Any = []
    for i, value in enumerate(cells):
        if _is_missing(value):
            value = math.nan
        elif isinstance(value, bool) or not isinstance(value, Real):
            quotes = " Send it without quotes." if isinstance(value, str) and _is_number(value) else ""
            raise RequestError(f"{_where(i, column)} must be a number; got {abbreviate(value)}.{quotes}")
        if column.kind == "log" and value <= 0:
            raise RequestError(f"{_where(i, column)} must be positive; got {abbreviate(value)}.")
        try:
            numbers.append(float(value))
        except OverflowError:
            numbers.append(math.inf)
    if column.kind == "log":
        numbers = np.log(numbers)
    with np.errstate(over="ignore"):  # becomes infinite, and is refused as such
        x[:, 0] = numbers
    if np.isinf(x).any():
        i = int(np.argmax(np.isinf(x)))
        raise RequestError(f"{_where(i, column)}: {abbreviate(cells[i])} is more than float32 holds.")


def _fill_categories(column, cells, x):
    # True equals 1, and is another value all the same. Two categories may differ in how an accented letter is written.
    exact = {(isinstance(value, bool), value): i for i, value in enumerate(column.categories)}
    place = {(is_bool, _composed(value)): i for (is_bool, value), i in exact.items()} | exact
    for i, value in enumerate(cells):
        value = value.item() if isinstance(value, np.generic) else value
        if _is_missing(value):
            x[i] = np.nan
            continue
        key = (isinstance(value, bool), value) if isinstance(value, str | bool | int | float) else None
        if key not in place and isinstance(value, str):
            key = (False, _composed(value))
        if key not in place:
            meant = next(
                (f"; did you mean {each!r}?" for each in column.categories if _plain(each) == _plain(value)), "."
            )
            raise RequestError(
                f"{_where(i, column)}: {abbreviate(value)} is none of its categories{meant} They are "
                f"{_listed(column.categories)}."
            )
        x[i, place[key]] = 1.0


def _values(column, x):
    """A list of the column's values, None where one is missing."""
    missing = np.isnan(x).any(axis=1).tolist()
    if column.kind == "category":
        largest = np.argmax(np.nan_to_num(x, nan=-np.inf), axis=1).tolist()
        return [None if m else column.categories[i] for i, m in zip(largest, missing, strict=True)]
    found = x[:, 0].astype("float64")
    with np.errstate(over="ignore"):  # becomes infinite, and then the upper bound
        found = np.clip(np.exp(found) if column.kind == "log" else found, column.low, column.high).tolist()
    if column.is_whole:
        return [None if m else round(value) for value, m in zip(found, missing, strict=True)]
    return [None if m else value for value, m in zip(found, missing, strict=True)]


def _is_missing(value):
    """Whether it is None, NaN or pandas' NA, of which nothing can be asked."""
    return (
        value is None or type(value).__name__ == "NAType" or (isinstance(value, float | np.floating) and value != value)
    )


def _is_number(text):
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _composed(value):
    """Text with each accented letter as one character, where some systems write two."""
    return unicodedata.normalize("NFC", value) if isinstance(value, str) else value


def _plain(value):
    """The text of a value, whatever its type and case."""
    return (value if isinstance(value, str) else abbreviate(value)).lower()


def _where(row, column):
    return f"row {row}, column {column.name!r}"


def _listed(names):
    names = [abbreviate(name) for name in names]
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
