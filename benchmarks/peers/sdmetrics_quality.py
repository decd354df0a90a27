"""The quality report of sdmetrics, in an environment that has it: compares tables with a real one.

    python sdmetrics_quality.py real.csv "CATEGORY,..." synthetic.csv...

Prints a JSON list, of each synthetic table the scores of column shapes and of column pair trends.
"""

import json
import sys

import pandas
from sdmetrics.reports.single_table import QualityReport


def main(real, categories, *files):
    real, categories = pandas.read_csv(real), categories.split(",")
    columns = {name: {"sdtype": "categorical" if name in categories else "numerical"} for name in real.columns}
    found = []
    for file in files:
        report = QualityReport()
        report.generate(real, pandas.read_csv(file), {"columns": columns}, verbose=False)
        found.append(
            dict(zip(*(report.get_properties()[name].tolist() for name in ("Property", "Score")), strict=True))
        )
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
