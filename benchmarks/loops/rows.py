"""What the benchmarks of training write."""

import csv
import dataclasses


def write(row, rows, path):
    """A CSV of dataclasses of one type, `row`."""
    _write([field.name for field in dataclasses.fields(row)], map(dataclasses.asdict, rows), path)


def write_dicts(rows, path):
    """A CSV of dicts with the same keys, of which there is one at least."""
    _write(list(rows[0]), rows, path)


def _write(names, rows, path):
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)
