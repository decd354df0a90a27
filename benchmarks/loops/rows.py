"""What the benchmarks of training write."""

import csv
import dataclasses


def write(row, rows, path):
    """A CSV of dataclasses of one type, `row`."""
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in dataclasses.fields(row)])
        writer.writeheader()
        writer.writerows(dataclasses.asdict(one) for one in rows)
