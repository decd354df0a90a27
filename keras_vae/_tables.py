"""Tables in files: CSV as the text that it is, and Parquet, as DataFrames of polars.

A cell of a CSV file is text, and what it says is decided here: which cells are missing, and which columns hold numbers.
The text is kept beside that, so that a file with cells filled in or columns added has every other cell as it was. CSV
is read by Python's own reader, as polars takes a line that is too short for one with missing cells.
"""

import csv
import dataclasses
import importlib
import itertools
import os
import pathlib
import re
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

from keras_vae.tables import Column, Table

SUFFIXES: tuple[str, ...] = (".csv", ".tsv", ".parquet")
_MISSING = ("", "?", "na", "n/a", "#n/a", "<na>", "nan", "-nan", "null", "none")  # in lower case
_UTF8_MARK = b"\xef\xbb\xbf"  # by which Excel knows UTF-8


@dataclasses.dataclass(frozen=True)
class Sheet:
    """A table in a file.

    Args:
        path: The file.
        cells: DataFrame of polars: of CSV the text of each cell, None where it is empty.
        lines: Line of each row in a CSV file; None of Parquet.
        form: Arguments of polars' `write_csv` that write the file as it was.
        has_comma: Whether 3,14 is a number, as in spreadsheets that part cells by semicolons.
    """

    path: pathlib.Path
    cells: Any
    lines: list[int] | None = None
    form: dict[str, Any] = dataclasses.field(default_factory=dict)
    has_comma: bool = False

    def values(self, table: Table | None = None) -> Any:
        """DataFrame of what the cells say, None where one is missing.

        Args:
            table: Table whose columns hold what it says. Of other columns, or without one, those are numbers in which
                every cell is a number, but for codes such as 007, and those are text in which not.

        Raises:
            ValueError: If a cell of the table's columns is no number or none of its categories; says which.
        """
        first = self.cells.columns[0]
        if table is None and first == "" and _counts_rows(self.cells[first]):
            words = f"The first column of {self.path} has no name and counts the rows: it is left out."
            warnings.warn(words, stacklevel=2)
            return dataclasses.replace(self, cells=self.cells.drop(first)).values()
        if self.lines is None:
            return self.cells
        known = {} if table is None else {column.name: column for column in table.columns}
        return self.cells.with_columns(self._values(name, known.get(name)) for name in self.cells.columns)

    def for_file(self, path: pathlib.Path, table: Table) -> Any:
        """DataFrame of the file as another file is to have it: from CSV to CSV as text, else as values."""
        return self.values(table) if self.lines is None or path.suffix.lower() == ".parquet" else self.cells

    def filled(self, path: pathlib.Path, table: Table, x: Any) -> Any:
        """The same with the missing cells of the table's columns filled in from an array, `(rows, width)`."""
        cells, values = self.for_file(path, table), self.values(table)
        complete = table.to_frame(x, like=values)
        if cells is not self.cells or self.lines is None:
            return complete
        names = [column.name for column in table.columns]
        text = self.as_text(as_shortest(complete.select(names))).cast(_polars().String)
        return cells.with_columns(cells[name].zip_with(values[name].is_not_null(), text[name]) for name in names)

    def _values(self, name, column):
        polars = _polars()
        text = self.cells[name].str.strip_chars()
        text = text.zip_with(~text.str.to_lowercase().is_in(_MISSING).fill_null(True), text.clear(len(text)))
        if column is None and text.str.contains("^0[0-9]+$").any():
            return text
        if column is not None and column.kind == "category":
            if isinstance(column.categories[0], str):
                self._check(column, text, text.is_in(column.categories), "has values that the model does not know")
                return text
            if isinstance(column.categories[0], bool):
                lower = text.str.to_lowercase()
                self._check(column, text, lower.is_in(["true", "false"]), "must hold true or false")
                return lower == "true"
        digits = text.str.replace(",", ".", literal=True) if self.has_comma else text
        for dtype in (polars.Int64, polars.Float64):
            numbers = digits.cast(dtype, strict=False)
            if numbers.null_count() == text.null_count():
                return numbers
        if column is None:
            return text
        return self._check(column, text, numbers.is_not_null(), "must hold numbers")

    def as_text(self, frame: Any) -> Any:
        """A DataFrame with numbers as this file writes them."""
        floats = _polars().selectors.float()
        comma = floats.cast(_polars().String).str.replace(".", ",", literal=True)
        return frame.with_columns(comma) if self.has_comma else frame

    def _check(self, column: Column, text, is_right, words):
        """Raises an error of the first cell that is not missing and not right."""
        wrong = (text.is_not_null() & ~is_right.fill_null(False)).arg_true()
        if len(wrong):
            assert self.lines is not None
            where = f"line {self.lines[wrong[0]]} has {text[wrong[0]]!r}"
            raise ValueError(f"Column {column.name!r} of {self.path} {words}: {where}.")


def read(path: str | os.PathLike[str]) -> Sheet:
    """A table in a file.

    The first line of a CSV file holds names unless each of its cells is a number or occurs again in its column; then
    the names are "0", "1", ...

    Raises:
        ValueError: If the file is no table, or the rows differ in length; says where.
        ModuleNotFoundError: If polars is not installed.
    """
    path = pathlib.Path(path)
    polars = _polars(path)
    if path.suffix.lower() != ".parquet":
        return _read_csv(path)
    try:
        return Sheet(path, polars.read_parquet(path))
    except (OSError, polars.exceptions.PolarsError) as error:
        raise ValueError(f"{path} cannot be read as a Parquet file ({error}).") from None


def write(frame: Any, path: pathlib.Path, like: Sheet | None = None) -> None:
    """Writes a DataFrame as the suffix says, CSV in the form of another file if that has the same suffix.

    Raises:
        ValueError: If the suffix is another, or CSV has no place for what a column holds.
    """
    suffix = path.suffix.lower()
    form = {"separator": "\t" if suffix == ".tsv" else ","}
    if like is not None and like.path.suffix.lower() == suffix:
        frame, form = like.as_text(frame), form | like.form
        if frame.columns != like.cells.columns:
            form.pop("include_header", None)  # columns that were added want names
    try:
        if suffix == ".parquet":
            frame.write_parquet(path)
        else:
            frame.write_csv(path, **form)
    except _polars().exceptions.PolarsError as error:
        raise ValueError(f"The table cannot be written as {suffix} ({error}).") from None


def with_columns(frame: Any | None, columns: dict[str, Any]) -> Any:
    """A DataFrame, or none, with more columns behind its own.

    Raises:
        ValueError: If it has a column of such a name.
    """
    polars = _polars()
    if frame is None:
        return polars.DataFrame(columns)
    twice = [name for name in columns if name in frame.columns]
    if twice:
        raise ValueError(f"The output gets a column {twice[0]!r}, and the data have one already: rename it.")
    return frame.with_columns(polars.Series(name, values) for name, values in columns.items())


def below_each_other(frames: Sequence[Any]) -> Any:
    """The rows of several DataFrames as those of one."""
    return _polars().concat(frames)


def as_shortest(frame: Any) -> Any:
    """A DataFrame of numbers that were float32, for text: 0.1, where float64 has 0.10000000149."""
    polars = _polars()
    return frame.cast({polars.Float64: polars.Float32})


def _read_csv(path):
    polars = _polars()
    try:
        with open(path, "rb") as file:
            marked = file.read(len(_UTF8_MARK)) == _UTF8_MARK
        with open(path, encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            outside = re.sub(r'"[^"]*"', "", first)
            delimiter = max(",;\t", key=outside.count)  # a comma where none is there
            reader = csv.reader(itertools.chain([first], file), delimiter=delimiter)
            rows = [(reader.line_num, row) for row in reader]
        while rows and not rows[-1][1]:
            rows.pop()
        if rows and len(rows[0][1]) == 1:  # an empty line is an empty cell
            rows = [(line, row or [""]) for line, row in rows]
        rows = [(line, row) for line, row in rows if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(
            f"{path} cannot be read as a table of text in UTF-8 ({error}): save it as CSV UTF-8."
        ) from None
    if not rows:
        raise ValueError(f"{path} is empty.")
    for line, row in rows:
        if len(row) != len(rows[0][1]):
            raise ValueError(f"Line {line} of {path} has {len(row)} cells, but the first has {len(rows[0][1])}.")
    columns = list(zip(*(row for _, row in rows), strict=True))
    names = [column[0].strip() for column in columns]
    has_names = not all(_is_number(column[0]) or column[0] in column[1:] for column in columns)
    if not has_names:
        words = f"The first line of {path} holds values, not names: it is read as a row."
        warnings.warn(words, stacklevel=4)
        names = [str(i) for i in range(len(names))]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"Two columns of {path} are called {twice[0]!r}: give each a name of its own.")
    cells = ([cell or None for cell in column[has_names:]] for column in columns)
    frame = polars.DataFrame(dict(zip(names, cells, strict=True)), schema=dict.fromkeys(names, polars.String))
    form = {
        "separator": delimiter,
        "include_bom": marked,
        "line_terminator": "\r\n" if first.endswith("\r\n") else "\n",
        "include_header": has_names,
    }
    has_comma = delimiter != "," and _any_match(columns, "[+-]?[0-9]+,[0-9]+")
    has_comma = has_comma and not _any_match(columns, r"[+-]?[0-9]+\.[0-9]+")
    return Sheet(path, frame, [line for line, _ in rows[has_names:]], form, has_comma)


def _any_match(columns, pattern):
    return any(re.fullmatch(pattern, cell.strip()) for column in columns for cell in column)


def _is_number(cell):
    try:
        float(cell)
    except ValueError:
        return cell.strip().lower() in _MISSING
    return True


def _counts_rows(cells: Iterable[Any]):
    return all(str(cell) == str(i) for i, cell in enumerate(cells))


def _polars(path: pathlib.Path | None = None) -> Any:
    try:
        return importlib.import_module("polars")
    except ModuleNotFoundError:
        what = "A table" if path is None else f"{path} is a table, which"
        words = f'{what} needs polars: pip install "keras-vae[tables]".'
        raise ModuleNotFoundError(words, name="polars") from None
