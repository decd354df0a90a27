"""Rows by name become the numbers of `keras_vae.tables.Table`, and numbers its values: the two are written twice."""

import json
import math

import numpy as np
import pandas
import polars
import pytest

import keras_vae
from keras_vae_serving import tables
from keras_vae_serving.errors import RequestError

pytestmark = pytest.mark.once

NAMES = ("wage", "grade", "owns", "code", "size", "team", "share", "mass", "heads")
ROWS = [
    dict(zip(NAMES, row, strict=True))
    for row in (
        (12.3, 1, True, "1", "M", 7, 0.1, 0.02, 3),
        (-1e-7, None, False, "01", "S", 30, None, 900.0, 41),
        (None, 16_777_216, None, "nan", None, 7, 0.2, None, 1),
        (4.0, -3, True, None, "S", None, 0.3, 1.5, 8),
        (1e30, 2, True, "1.0", "M", -1, 0.3, 7.0, 2),
    )
]


@pytest.fixture(scope="module")
def frame():
    """Booleans and whole numbers with holes, an order with a level that nobody has, names that look like numbers."""
    frame = pandas.DataFrame(ROWS)
    frame["owns"] = frame["owns"].astype("boolean")
    frame["size"] = pandas.Categorical(frame["size"], ["S", "M", "L"], ordered=True)
    frame["team"] = frame["team"].astype("Int64")
    return frame


@pytest.fixture(scope="module")
def table(frame):
    return keras_vae.tables.Table.fit(frame, kinds={"team": "category", "mass": "log", "heads": "log"})


@pytest.fixture(scope="module")
def served(table):
    return tables.Table(json.loads(json.dumps(table.get_config())), missing=True)


@pytest.fixture(scope="module")
def x(table):
    """As a model gives them: beyond bounds, between whole numbers, probabilities that are equal, and missing values."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, table.width)).astype("float32") * rng.choice([0.1, 10.0, 1e8], size=(400, 1))
    x[:50] = np.round(x[:50] * 2.0) / 2.0  # halves, which are rounded to even numbers
    x[50:60, 3:] = 0.5
    x[rng.random(x.shape) < 0.05] = np.nan
    return x.astype("float32")


def records(frame):
    """Rows of a DataFrame, None where a value is missing."""
    columns = [[None if pandas.isna(value) else value for value in frame[name].to_list()] for name in frame.columns]
    return [dict(zip(frame.columns, row, strict=True)) for row in zip(*columns, strict=True)]


def test_rows_become_the_numbers_of_the_library(frame, table, served):
    assert [column.kind for column in table.columns] == ["real", "integer", *["category"] * 4, "real", "log", "log"]
    expected = table.to_array(frame)
    of_polars = polars.DataFrame(ROWS, infer_schema_length=None)
    shuffled = [{name: row[name] for name in reversed(row) if row[name] is not None} for row in ROWS]
    for rows in (ROWS, shuffled, records(frame), frame, frame.assign(other=1), of_polars):
        found = served.to_array(rows)
        np.testing.assert_array_equal(found, expected, strict=True)
    as_floats = [{**row, "team": row["team"] and float(row["team"]), "wage": np.float64(row["wage"])} for row in ROWS]
    np.testing.assert_array_equal(served.to_array(as_floats), expected)
    assert served.width == table.width
    assert {c.name: c.width for c in served.in_array} == {n: s.stop - s.start for n, s in table.places.items()}


def test_numbers_become_the_values_of_the_library(table, served, x):
    expected, found = records(table.to_frame(x, "pandas")), served.to_rows(x)
    assert found == expected
    for row, other in zip(found, expected, strict=True):
        assert list(row) == list(other)
        assert [type(value) for value in row.values()] == [type(value) for value in other.values()]
    assert served.to_rows(x.reshape(100, 4, -1)) == [expected[i : i + 4] for i in range(0, 400, 4)]


def test_what_is_given_stays(frame, table, served, x):
    found = served.to_rows(x[:5], ROWS)
    assert found == records(table.to_frame(x[:5], like=frame))
    for row, given in zip(found, ROWS, strict=True):
        assert all(row[name] is value for name, value in given.items() if value is not None)
    twice = served.to_rows(x[:10].reshape(5, 2, -1), ROWS)
    assert [[row["code"] for row in rows] for rows in twice[:2]] == [["1", "1"], ["01", "01"]]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"wags": 1}, "row 1: there is no column 'wags'; did you mean 'wage'? The columns are 'wage', 'grade', 'owns'"),
        ({"w" * 1000: 1}, "row 1: there is no column 'wwwwwwwwwwwwwwwwwwwwwwwwwwwwww'.... The columns"),
        ({7: 1}, "row 1: there is no column 7. The columns"),
        ({"wage": "12"}, "row 1, column 'wage' must be a number; got '12'. Send it without quotes."),
        ({"wage": "much"}, "row 1, column 'wage' must be a number; got 'much'."),
        ({"grade": True}, "row 1, column 'grade' must be a number; got True."),
        ({"mass": 0}, "row 1, column 'mass' must be positive; got 0."),
        ({"wage": [1.0]}, "row 1, column 'wage' must be a number; got [1.0]."),
        ({"wage": 10**400}, "row 1, column 'wage': a whole number of more than 40 digits is more than float32 holds."),
        ({"wage": 10**5000}, "a whole number of more than 40 digits is more than float32 holds."),
        ({"wage": -3.5e38}, "row 1, column 'wage': -3.5e+38 is more than float32 holds."),
        ({"wage": math.inf}, "row 1, column 'wage': inf is more than float32 holds."),
        (
            {"code": 1},
            "row 1, column 'code': 1 is none of its categories; did you mean '1'? They are '01', '1', '1.0', ",
        ),
        ({"team": "7"}, "row 1, column 'team': '7' is none of its categories; did you mean 7? They are -1, 7, 30."),
        ({"size": "m"}, "row 1, column 'size': 'm' is none of its categories; did you mean 'M'? They are 'S', 'M'."),
        ({"size": "L"}, "row 1, column 'size': 'L' is none of its categories. They are 'S', 'M'."),
        ({"owns": 1}, "row 1, column 'owns': 1 is none of its categories. They are False, True."),
        ({"owns": "true"}, "row 1, column 'owns': 'true' is none of its categories; did you mean True?"),
        ({"code": {"a": 1}}, "row 1, column 'code': an object is none of its categories."),
        (["1"], "row 1 must hold values by the names of columns; got ['1']."),
    ],
)
def test_mistakes_name_row_and_column(served, row, words):
    with pytest.raises(RequestError) as refused:
        served.to_array([{}, row])
    assert words in str(refused.value)
    assert len(str(refused.value)) < 300


def test_an_accented_letter_is_the_same_as_one_character_or_as_two():
    garlic = "B\u00e4rlauch", "Ba\u0308rlauch"
    for known in garlic:
        table = tables.Table([{"name": "species", "kind": "category", "categories": [known, "Moos"]}])
        np.testing.assert_array_equal(table.to_array([{"species": each} for each in garlic]), [[1, 0], [1, 0]])
    both = tables.Table([{"name": "species", "kind": "category", "categories": garlic}])  # two, as they were fitted
    np.testing.assert_array_equal(both.to_array([{"species": each} for each in garlic]), np.eye(2))


def test_an_accented_letter_in_the_name_of_a_column_is_the_same_as_one_character_or_as_two():
    names = "B\u00e4r", "Ba\u0308r"
    for known, other in (names, names[::-1]):
        table = tables.Table([{"name": known, "kind": "real"}, {"name": "a", "kind": "real"}], missing=True)
        for rows in ([{other: 1.5, "a": 2.0}], [{known: 1.5, "a": 2.0}], pandas.DataFrame({other: [1.5], "a": [2.0]})):
            np.testing.assert_array_equal(table.to_array(rows), [[1.5, 2.0]])
            assert table.to_rows(np.zeros((1, 2)), rows) == [{known: 1.5, "a": 2.0}]
        assert table.is_row({other: 1.5})
        with pytest.raises(RequestError, match="row 1: column '.*' is there twice, in two spellings"):
            table.to_array([{}, {known: 1.5, other: 2.5}])
        np.testing.assert_array_equal(table.to_array(pandas.DataFrame({known: [1], other: [2], "a": [3]})), [[1, 3]])
    both = tables.Table([{"name": name, "kind": "real"} for name in names])
    np.testing.assert_array_equal(both.to_array([dict(zip(names, (1.0, 2.0), strict=True))]), [[1.0, 2.0]])


def test_a_model_that_takes_no_missing_values_says_which_is_missing(table):
    strict = tables.Table(table.get_config())
    with pytest.raises(RequestError, match="row 1, column 'grade': there is no value, and this model takes no missing"):
        strict.to_array(ROWS[:2])
    with pytest.raises(RequestError, match="the table has no column 'wage'; it has 'a'"):
        strict.to_array(pandas.DataFrame({"a": [1]}))


@pytest.mark.parametrize(
    "column",
    [
        {"name": "a", "kind": "category"},
        {"name": "a", "kind": "date"},
        {"name": "a", "kind": "category", "categories": [["b"]]},
        {"name": "a", "kind": "real", "low": "b"},
        {"name": 1, "kind": "real"},
        {"kind": "real"},
    ],
)
def test_columns_that_make_no_sense_are_refused(column):
    with pytest.raises((ValueError, TypeError, KeyError)):
        tables.Table([column])
    with pytest.raises(ValueError, match="two columns of one name"):
        tables.Table([{"name": "a", "kind": "real"}] * 2)
