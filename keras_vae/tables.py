"""Tables: a DataFrame of numbers and categories as an array for a model, and back.

A model knows an array and its likelihood, a person has a DataFrame of ages, wages and countries. `Table.fit` reads once
what the columns are. The array has the numbers first and then each category one-hot, the likelihood is the `Mixed` of
exactly these columns, and what the model draws becomes a DataFrame of the original types.

pandas and polars are told apart by narwhals, which comes with the extra `tables`.
"""

import dataclasses
import importlib
import importlib.util
import math
import re
import shlex
import warnings
from collections.abc import Hashable, Mapping
from typing import Any, Self

import keras
import numpy as np

from keras_vae.likelihoods import Categorical, Gaussian, Likelihood, Mixed, Standardized

KINDS: tuple[str, ...] = ("real", "log", "integer", "category")
_MAX_CATEGORIES = 200
_MAX_WHOLE = 2**24  # float32 tells whole numbers apart up to here
_FEW_ROWS = 20  # so few may differ by chance
_SKEWED = 0.6  # nats a row that a log-normal distribution fits better than a normal one: an exponential has 0.328
_DATE = re.compile(r"\d{4}-\d{1,2}-\d{1,2}.*|\d{1,2}[./]\d{1,2}[./]\d{2,4}.*")


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of a table.

    Args:
        name: Name in the DataFrame.
        kind: "real", "log" (the logarithm of a positive number is modelled, so that its mean becomes a number near the
            median, see `Table.fit`), "integer" or "category".
        categories: Values of a category, in the order of their one-hot columns: strings, booleans or numbers.
        levels: All values of a category that has an order, also those that do not occur.
        low, high: Least and greatest value seen of a number.
        mean, stddev: Those of a number, or of its logarithm; a constant column has stddev 1.
        dtype: Type in the DataFrame, as narwhals calls it.
    """

    name: str
    kind: str
    categories: tuple[Any, ...] = ()
    levels: tuple[Any, ...] = ()
    low: float = -math.inf
    high: float = math.inf
    mean: float = 0.0
    stddev: float = 1.0
    dtype: str = "Float64"

    @property
    def width(self) -> int:
        """Number of columns of the array."""
        return len(self.categories) or 1

    @property
    def is_whole(self) -> bool:
        """Whether a value goes back to the DataFrame as a whole number."""
        return self.kind == "integer" or (self.kind == "log" and self.dtype.startswith(("Int", "UInt")))


class Table:
    """What the columns of a DataFrame are, and how they become numbers and back.

    Args:
        columns: The columns in the order of the DataFrame; `Table.fit` finds them.

    Example:

    >>> table = keras_vae.tables.Table.fit(df)
    >>> likelihood = table.likelihood()
    >>> vae = VAE(*networks.mlp(table.width, 8, likelihood=likelihood), likelihood, allow_missing=True)
    >>> vae.compile("adam")
    >>> vae.fit(table.to_array(df), epochs=50)
    >>> synthetic = table.to_frame(vae.sample(1000, draw=True))
    >>> complete = table.to_frame(vae.impute(table.to_array(df)), like=df)

    Reference: Nazabal et al. 2020, Handling incomplete heterogeneous data using VAEs, arXiv:1807.03653.
    """

    def __init__(self, columns: tuple[Column, ...]) -> None:
        self.columns: tuple[Column, ...] = tuple(columns)
        # Side by side in the array: all numbers, which one group of the likelihood has, then the categories.
        self._numbers = [column for column in self.columns if column.kind != "category"]
        self._categories = [column for column in self.columns if column.kind == "category"]

    @classmethod
    def fit(cls, frame: Any, kinds: Mapping[str, str | None] | None = None) -> Self:
        """Reads off a DataFrame what its columns are.

        Floats are "real", whole numbers "integer" (floats with holes in which every number is whole, too), and text,
        booleans and the types of categories "category". An ordered category keeps its order and all its levels; another
        has those that occur, sorted.

        "log" is for positive numbers over several decades, such as masses, incomes or durations: the array holds their
        natural logarithm, and nats are of that. It is never chosen by itself; a warning says where it fits much better.
        A value that is filled in or decoded is the exponential of the mean logarithm, near the median and below the
        mean: for sums and means take draws.

        Args:
            frame: A DataFrame of pandas or polars, of which all rows are looked at.
            kinds: Kind of a column where it is another, by its name, such as `{"zip_code": "category"}`; None leaves
                the column out.

        Raises:
            ValueError: If columns have no value, are of a type that is neither, or, where `kinds` does not say what
                they are, name the rows (text that seldom occurs twice, whole numbers that count), hold whole numbers
                beyond 2**24, which float32 rounds, or text in a few cells among numbers; says which and what to do.
        """
        frame = _narwhals(frame)
        if not isinstance(kinds, Mapping | None):
            raise ValueError(f'kinds must map names to kinds, such as {{"zip_code": "category"}}; got {kinds!r}.')
        kinds = kinds or {}
        for name in frame.columns:
            if not isinstance(name, str):
                raise ValueError(
                    f"The names of columns must be text, and one is {name!r}: df.columns = df.columns.map(str)."
                )
        if not len(frame):
            raise ValueError("The table has no row.")
        unknown = sorted(set(kinds) - set(frame.columns))
        if unknown:
            raise ValueError(f"kinds names {unknown[0]!r}, which is no column of the table: {_listed(frame.columns)}.")
        columns, wrong = [], []
        naming = [name for name in frame.columns if name not in kinds and _names_rows(frame[name])]
        if naming:
            wrong.append(
                f"The values of {_listed(naming)} do not repeat, as names of the rows, from which a model learns "
                f"nothing: {_left_out(*naming)}, or say which kind they are."
            )
        for name in frame.columns:
            kind = kinds.get(name, "")
            if kind is None or name in naming:
                continue
            if kind not in ("", *KINDS):
                raise ValueError(f"The kind of {name!r} must be one of {', '.join(KINDS)}, or None; got {kind!r}.")
            try:
                columns.append(_column(name, frame[name], kind))
            except ValueError as error:
                wrong.append(str(error))
        if wrong:
            raise ValueError("\n".join(wrong))
        if not columns:
            raise ValueError("The table has no column.")
        return cls(tuple(columns))

    @property
    def width(self) -> int:
        """Number of columns of the array."""
        return sum(column.width for column in self.columns)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the array's columns: "age", and "country=France" of a category."""
        of_categories = [f"{column.name}={value}" for column in self._categories for value in column.categories]
        return (*(column.name for column in self._numbers), *of_categories)

    @property
    def places(self) -> dict[str, slice]:
        """Where each column is in the array, by its name and in the array's order."""
        found, start = {}, 0
        for column in (*self._numbers, *self._categories):
            found[column.name] = slice(start, start + column.width)
            start += column.width
        return found

    def likelihood(self, of_numbers: Likelihood | str | None = None) -> "TableLikelihood":
        """p(x|z) of the array: a standardised Gaussian with a learned scale for each number, and the categories.

        Args:
            of_numbers: Likelihood of the standardised numbers, such as `Laplace("learned", per_column=True)`.
        """
        return TableLikelihood(self, of_numbers or Gaussian("learned", per_column=True))

    def to_array(self, frame: Any) -> np.ndarray:
        """The numbers of a DataFrame: `(n, width)` float32, with NaN where a value is missing.

        Args:
            frame: A DataFrame with these columns, of pandas or polars; others are left out.

        Raises:
            ValueError: If a column is missing or holds something else than when the table was fitted; says where.
        """
        frame = _narwhals(frame)
        absent = [column.name for column in self.columns if column.name not in frame.columns]
        if absent:
            raise ValueError(f"The table has no column {absent[0]!r}; it has {_listed(frame.columns)}.")
        series = {column.name: frame[column.name] for column in self.columns}
        numbers = [_modelled(c, _numbers(c.name, _cells(series[c.name])))[:, None] for c in self._numbers]
        one_hot = [_one_hot(column, _cells(series[column.name])) for column in self._categories]
        return np.concatenate([*numbers, *one_hot], axis=1, dtype="float32")

    def to_frame(self, x: Any, library: str | None = None, like: Any = None) -> Any:
        """A DataFrame of the original types, of an array such as the model draws.

        A number is put between the least and the greatest that were seen, an integer rounded; of the kind "log" it is
        the exponential of x, and of a mean in x near the median (see `fit`). A category is the one of the largest
        probability. NaN becomes a missing value. polars has categories of text alone: others become plain.

        Args:
            x: `(n, width)` array.
            library: "pandas" or "polars"; that of `like`, or pandas if it is installed.
            like: The DataFrame that x was made of. It is returned with its missing values filled in from x: what is
                observed stays as it is, where the float32 of x may be rounded.

        Raises:
            ValueError: If the array has another width, or another number of rows than `like`.
        """
        x = np.asarray(x)
        if x.ndim != 2 or x.shape[1] != self.width:
            draws = " Of several draws make each a DataFrame: to_frame(x[0])." if x.ndim == 3 else ""
            raise ValueError(f"x must have shape (n, {self.width}), as to_array gives it; got {x.shape}.{draws}")
        if like is not None:
            self.to_array(like)  # for its errors
            like = _narwhals(like)
            library = like.implementation.value
            if len(like) != len(x):
                raise ValueError(f"x has {len(x)} rows, and the DataFrame that it was made of has {len(like)}.")
        library = library or ("pandas" if importlib.util.find_spec("pandas") else "polars")
        if library not in ("pandas", "polars"):
            raise ValueError(f'library must be "pandas" or "polars"; got {library!r}.')
        places = self.places
        found = {column.name: _values(column, x[:, places[column.name]]) for column in self.columns}
        native: Any = importlib.import_module(library)
        of_library = _pandas_series if library == "pandas" else _polars_series
        if like is None:
            return native.DataFrame({c.name: of_library(native, c, found[c.name]) for c in self.columns})
        filled = [_filled(c, like[c.name], found[c.name]) for c in self.columns if _missing(like[c.name])]
        series = [of_library(native, column, values) for column, values in filled]
        return like.with_columns(
            *(_import_narwhals().from_native(each, series_only=True) for each in series)
        ).to_native()

    def get_config(self) -> list[dict[str, Any]]:
        # Without what a kind does not have, such as the infinite bounds of a category, which JSON does not know.
        return [
            {
                field.name: list(value) if isinstance(value, tuple) else value
                for field in dataclasses.fields(column)
                if (value := getattr(column, field.name)) != field.default
            }
            for column in self.columns
        ]

    @classmethod
    def from_config(cls, config: list[dict[str, Any]]) -> Self:
        as_tuples: list[dict[str, Any]] = [
            {k: tuple(v) if isinstance(v, list) else v for k, v in each.items()} for each in config
        ]
        return cls(tuple(Column(**each) for each in as_tuples))

    def __repr__(self) -> str:
        return f"Table({', '.join(f'{column.name}: {column.kind}' for column in self.columns)})"

    def by_column(self, values: Any) -> dict[str, np.ndarray]:
        """Sums over the columns of the array that one column of the DataFrame became, by its name.

        Args:
            values: `(..., width)`, such as nats of each dimension.

        Returns:
            An array `(...)` for each column, in the order of the DataFrame.

        Raises:
            ValueError: If the last axis is not that of the array.
        """
        values, places = np.asarray(values), self.places
        if values.shape[-1:] != (self.width,):
            raise ValueError(f"values must have shape (..., {self.width}), as to_array gives it; got {values.shape}.")
        return {column.name: values[..., places[column.name]].sum(axis=-1) for column in self.columns}


@keras.saving.register_keras_serializable(package="keras_vae")
class TableLikelihood(Mixed):
    """The `Mixed` of a table's columns; it holds the table, so that a saved model has it: `vae.likelihood.table`.

    Args:
        table: A `Table`.
        of_numbers: Likelihood of the standardised numbers.
    """

    def __init__(self, table: Any, of_numbers: Any) -> None:
        table = table if isinstance(table, Table) else Table.from_config(table)
        numbers = [column for column in table.columns if column.kind != "category"]
        groups: list[tuple[Likelihood, int]] = []
        if numbers:
            mean, stddev = ([getattr(column, what) for column in numbers] for what in ("mean", "stddev"))
            groups.append((Standardized(of_numbers, mean, stddev), len(numbers)))
        groups += [(Categorical(), column.width) for column in table.columns if column.kind == "category"]
        super().__init__(groups)
        self.table: Table = table

    def get_config(self) -> dict[str, Any]:
        first = self.parts[0]
        of_numbers = first.likelihood if isinstance(first, Standardized) else None
        return {
            "table": self.table.get_config(),
            "of_numbers": of_numbers and keras.saving.serialize_keras_object(of_numbers),
        }


def _column(name, series, given):
    cells = _cells(series)
    kind = given or _kind(name, series.dtype, cells)
    if all(value is None for value in cells):
        raise ValueError(f"Column {name!r} has no value: {_left_out(name)}.")
    dtype = str(series.dtype).partition("(")[0]
    if kind == "category":
        return Column(name, kind, *_categories_of(name, series.dtype, cells), dtype=dtype)
    x = _numbers(name, cells)
    x = x[~np.isnan(x)]
    low, high = float(x.min()), float(x.max())
    if kind == "integer" and not given and max(-low, high) > _MAX_WHOLE:
        raise ValueError(
            f"Column {name!r} has whole numbers from {low:.0f} to {high:.0f}, and float32 tells them apart up to 2**24 "
            f'only. If they name the rows, {_left_out(name)}; if they name groups, "category"; if they are numbers '
            'that may be rounded, "integer".'
        )
    if not given and _is_skewed(x):
        warnings.warn(
            f"Column {name!r} is positive and skewed, from {low:g} to {high:g} with a median of {np.median(x):g}: "
            f"its logarithm is closer to a normal distribution. {_as_kind(name, 'log')} models that; "
            f"{_as_kind(name, kind)} keeps it as it is.",
            stacklevel=3,
        )
    column = Column(name, kind, (), (), low, high, dtype=dtype)
    x = _modelled(column, x)
    mean, stddev = float(x.mean()), float(x.std())
    return dataclasses.replace(column, mean=mean, stddev=stddev if stddev > 1e-12 * abs(mean) else 1.0)


def _modelled(column, x):
    """The numbers of a column as the model has them: of the kind "log" their logarithms."""
    if column.kind != "log":
        return x
    if (x <= 0).any():
        raise ValueError(
            f"Column {column.name!r} holds {x[x <= 0][0]:g}, and the logarithm is of positive numbers: make it a "
            f"missing value, or {_as_kind(column.name, 'real')}."
        )
    return np.log(x)


def _is_skewed(x):
    """Whether a log-normal distribution fits positive numbers much better than a normal one, in nats a row."""
    if len(x) <= _FEW_ROWS or x.min() <= 0 or x.min() == x.max():
        return False
    logarithm = np.log(x)
    return np.log(x.std() / logarithm.std()) - logarithm.mean() > _SKEWED


def _as_kind(name, kind):
    return f"kinds={{{name!r}: {kind!r}}} (--kinds {shlex.quote(f'{name}={kind}')})"


def _names_rows(series):
    """Whether text seldom occurs twice, or whole numbers count."""
    cells = [value for value in _cells(series) if value is not None]
    if len(cells) <= _FEW_ROWS:
        return False
    if series.dtype.is_integer():
        return len(set(cells)) == len(cells) == len(series) == max(cells) - min(cells) + 1
    return all(isinstance(value, str) for value in cells) and 2 * len(set(cells)) > len(cells)


def _kind(name, dtype, cells):
    if dtype.is_integer():
        return "integer"
    if dtype.is_numeric():
        x = _numbers(name, cells)
        x = x[~np.isnan(x)]
        return "integer" if len(x) < len(cells) and len(x) and (x == np.round(x)).all() else "real"
    if str(dtype).startswith(("String", "Boolean", "Categorical", "Enum", "Object")):
        _check_no_numbers(name, cells)
        return "category"
    raise ValueError(
        f"Column {name!r} holds {dtype}, which is neither a number nor a category: make it one, such as the day of the "
        f"year of a date, or {_left_out(name)}."
    )


def _check_no_numbers(name, cells):
    """Raises a ValueError for text that is nearly everywhere a number, such as 57 and 57 %: those are no categories."""
    text = [(row, value) for row, value in enumerate(cells) if isinstance(value, str)]
    other = [(row, value) for row, value in text if not _is_number(value)]
    if other and len(text) > _FEW_ROWS and 5 * len(other) < len(text) and len({v for _, v in text}) > _FEW_ROWS:
        row, value = other[0]
        raise ValueError(
            f"Column {name!r} holds text in {len(other)} cells, first {value!r} in row {row}, counted from 0, and "
            f"numbers in all others: make those cells numbers, or empty, or {_as_kind(name, 'category')}."
        )


def _is_number(text):
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _numbers(name, cells):
    """`(n,)` float64, NaN where a value is missing."""
    x = np.full(len(cells), math.nan)
    for row, value in enumerate(cells):
        try:
            x[row] = math.nan if value is None else float(value)
        except (TypeError, ValueError):
            raise ValueError(
                f"Column {name!r} must hold numbers; row {row}, counted from 0, holds {value!r}."
            ) from None
    if np.isinf(x).any():
        row = int(np.argmax(np.isinf(x)))
        raise ValueError(f"Column {name!r} holds an infinite value, first in row {row}, counted from 0.")
    return x


def _cells(series):
    """The values, None where one is missing."""
    values, missing = series.to_list(), series.is_null().to_list()
    return [None if m or (isinstance(v, float) and math.isnan(v)) else v for v, m in zip(values, missing, strict=True)]


def _missing(series):
    return any(value is None for value in _cells(series))


def _filled(column, series, values):
    """The column as this series has it, and its values, with new ones where one is missing."""
    values = [new if value is None else value for value, new in zip(_cells(series), values, strict=True)]
    if column.kind == "category":
        return column, values
    kind = "integer" if column.is_whole and series.dtype.is_integer() else "real"
    values = values if kind == "integer" else [value if value is None else float(value) for value in values]
    return dataclasses.replace(column, kind=kind, dtype=str(series.dtype)), values


def _categories_of(name, dtype, cells):
    """The values that occur, sorted, and all levels; of an ordered category both in its order."""
    levels = tuple(getattr(dtype, "categories", ()) or ())
    values = [v.item() if isinstance(v, np.generic) else v for v in (*cells, *levels) if v is not None]
    types = {type(value) for value in values}
    finite = all(
        isinstance(value, str) or (isinstance(value, bool | int | float) and np.isfinite(value)) for value in values
    )
    if len(types) > 1 or not finite:
        raise ValueError(
            f"Column {name!r} holds values of type {' and '.join(sorted(each.__name__ for each in types))}, and "
            f"categories are text, booleans or finite numbers, all of one type: make them text, df[{name!r}].astype"
            f"(str), or {_left_out(name)}."
        )
    occur = set(values[: len(values) - len(levels)])
    found = [value for value in levels if value in occur] or sorted(occur)
    if len(found) > _MAX_CATEGORIES:
        is_date = all(isinstance(value, str) and _DATE.fullmatch(value) for value in found)
        advice = "make numbers of dates, such as the day of the year" if is_date else "join the rare ones"
        raise ValueError(
            f"Column {name!r} has {len(found)} categories, and {_MAX_CATEGORIES} are the most: {advice}, or "
            f"{_left_out(name)}."
        )
    return tuple(found), levels


def _one_hot(column, cells):
    """`(n, categories)`, NaN in a row whose value is missing."""
    place = {value: i for i, value in enumerate(column.categories)}
    x = np.zeros((len(cells), column.width), "float32")
    for row, value in enumerate(cells):
        if value is None:
            x[row] = np.nan
        elif isinstance(value, Hashable) and value in place:
            x[row, place[value]] = 1.0
        else:
            raise ValueError(
                f"Column {column.name!r} holds {value!r} in row {row}, counted from 0, which is none of the categories "
                f"that the table was fitted to: {_listed(column.categories)}. Fit again with it, or make it a missing "
                "value."
            )
    return x


def _values(column, x):
    """A list of the column's values, None where one is missing."""
    if column.kind == "category":
        largest, missing = np.argmax(np.nan_to_num(x, nan=-np.inf), axis=1), np.isnan(x).any(axis=1)
        return [None if m else column.categories[i] for i, m in zip(largest, missing, strict=True)]
    x = x[:, 0].astype("float64")
    with np.errstate(over="ignore"):  # becomes infinite, and then the greatest value that was seen
        x = np.clip(np.exp(x) if column.kind == "log" else x, column.low, column.high)
    if column.is_whole:
        return [None if math.isnan(value) else round(value) for value in x.tolist()]
    return [None if math.isnan(value) else value for value in x.tolist()]


def _pandas_series(pandas, column, values):
    return pandas.Series(values, dtype=_pandas_dtype(pandas, column, values), name=column.name)


def _pandas_dtype(pandas, column, values):
    """The original type, or the one of its kind that has a missing value."""
    if column.dtype in ("Categorical", "Enum"):
        return pandas.CategoricalDtype(list(column.levels or column.categories), ordered=bool(column.levels))
    if column.kind == "category":
        nullable = {bool: "boolean", int: "Int64"}.get(type(column.categories[0]))
        return nullable if None in values or nullable is None else nullable.lower().removesuffix("ean")
    if column.is_whole:
        name = column.dtype if column.dtype.startswith(("Int", "UInt")) else "Int64"
        return name if None in values else name.lower()
    return "float32" if column.dtype == "Float32" else "float64"


def _polars_series(polars, column, values):
    return polars.Series(column.name, values, dtype=_polars_dtype(polars, column))


def _polars_dtype(polars, column):
    if column.kind == "category":
        if column.dtype in ("Categorical", "Enum") and isinstance(column.categories[0], str):
            return polars.Enum(column.levels or column.categories)
        return {bool: polars.Boolean, int: polars.Int64, float: polars.Float64}.get(
            type(column.categories[0]), polars.String
        )
    if column.is_whole:
        return getattr(polars, column.dtype) if column.dtype.startswith(("Int", "UInt")) else polars.Int64
    return polars.Float32 if column.dtype == "Float32" else polars.Float64


def _narwhals(frame):
    """A DataFrame as narwhals has it."""
    nw = _import_narwhals()
    try:
        return nw.from_native(frame, eager_only=True)
    except TypeError:
        raise ValueError(
            f"A table is a DataFrame of pandas or polars; got a {type(frame).__name__}. Of an array without names the "
            "likelihood is Mixed([...])."
        ) from None
    except nw.exceptions.DuplicateError:
        names = list(frame.columns)
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"Several columns have the name {twice!r}: give each a name of its own.") from None


def _import_narwhals() -> Any:
    try:
        return importlib.import_module("narwhals")
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            'Tables of several types need narwhals: pip install "keras-vae[tables]".', name="narwhals"
        ) from None


def _left_out(*names):
    kinds, option = ", ".join(f"{name!r}: None" for name in names), ",".join(f"{name}=none" for name in names)
    return f"leave {'it' if len(names) == 1 else 'them'} out, kinds={{{kinds}}} (--kinds {shlex.quote(option)})"


def _listed(names, most=8):
    names = [repr(name) for name in names]
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
