"""A DataFrame as an array for a model, and back: what it reads, what it writes, and what it refuses."""

import json
import re

import keras
import numpy as np
import pandas
import polars
import pytest
from polars.testing import assert_frame_equal

from keras_vae import VAE, Laplace, networks
from keras_vae.tables import Table

pytestmark = pytest.mark.once

COLUMNS = {
    "age": [31, 45, 22, 67],
    "wage": [1200.5, None, 3100.0, 0.5],
    "rooms": [2, None, 4, 3],
    "country": ["France", "Chad", None, "Chad"],
    "owner": [True, False, False, True],
}
PLACES = ["country=Chad", "country=France", "owner=False", "owner=True"]


@pytest.fixture(params=["pandas", "polars"])
def frame(request):
    if request.param == "polars":
        return polars.DataFrame(COLUMNS)
    return pandas.DataFrame(COLUMNS).astype({"rooms": "Int64"})


def library_of(frame):
    return type(frame).__module__.split(".")[0]


def test_what_it_reads(frame):
    table = Table.fit(frame)
    assert [column.kind for column in table.columns] == ["integer", "real", "integer", "category", "category"]
    assert table.names == ("age", "wage", "rooms", *PLACES)
    expected = np.array(
        [
            [31, 1200.5, 2, 0, 1, 0, 1],
            [45, np.nan, np.nan, 1, 0, 1, 0],
            [22, 3100, 4, np.nan, np.nan, 1, 0],
            [67, 0.5, 3, 1, 0, 0, 1],
        ]
    )
    np.testing.assert_array_equal(table.to_array(frame), expected)


def test_a_frame_comes_back_as_it_was(frame):
    table, library = Table.fit(frame), library_of(frame)
    found = table.to_frame(table.to_array(frame), library)
    if library == "pandas":
        pandas.testing.assert_frame_equal(found, frame, check_dtype=True)
    else:
        assert_frame_equal(found, frame)


def test_draws_become_values_of_the_original_kinds_within_bounds(frame):
    table = Table.fit(frame)
    x = np.array([[99.0, -5.0, 2.6, 0.2, 0.8, 0.6, 0.4], [30.4, 10.25, 3.2, 0.9, 0.1, 0.0, 1.0]])
    (first, second) = table.to_frame(x, "polars").rows()
    assert first == (67, 0.5, 3, "France", False)
    assert second == (30, 10.25, 3, "Chad", True)


def test_kinds_are_overridden_and_columns_left_out():
    frame = pandas.DataFrame({"zip": [1010, 2020, 1010], "id": ["a", "b", "c"], "x": [1.0, 2.0, 4.0]})
    table = Table.fit(frame, kinds={"zip": "category", "id": None})
    assert table.names == ("x", "zip=1010", "zip=2020")
    assert list(table.to_frame(table.to_array(frame)).columns) == ["zip", "x"]


@pytest.mark.parametrize("dtype", ["category", "int8", "float32", "str", "bool"])
def test_types_of_pandas_come_back(dtype):
    frame = pandas.DataFrame({"x": pandas.Series([1, 0, 1, 1], dtype=dtype)})
    table = Table.fit(frame)
    pandas.testing.assert_frame_equal(table.to_frame(table.to_array(frame)), frame)


def test_an_enum_keeps_the_order_of_its_categories():
    order = polars.Enum(["low", "middle", "high"])
    frame = polars.DataFrame({"level": polars.Series(["high", "low", "high", "middle"], dtype=order)})
    table = Table.fit(frame)
    assert table.columns[0].categories == ("low", "middle", "high")
    assert_frame_equal(table.to_frame(table.to_array(frame), "polars"), frame)


def test_an_ordered_category_keeps_its_order_and_its_unused_levels():
    levels = ["low", "middle", "high"]
    frame = pandas.DataFrame({"level": pandas.Categorical(["high", "low", "high"], levels, ordered=True)})
    table = Table.fit(frame)
    table = Table.from_config(table.get_config())
    assert table.names == ("level=low", "level=high")
    pandas.testing.assert_frame_equal(table.to_frame(table.to_array(frame)), frame)
    assert table.to_frame(table.to_array(frame), "polars").schema["level"] == polars.Enum(levels)


def test_categories_of_numbers_are_plain_in_polars():
    frame = pandas.DataFrame({"x": pandas.Series([3, 1, 3], dtype="category"), "y": [0.5, 0.25, 0.5]})
    table = Table.fit(frame, kinds={"y": "category"})
    assert table.to_frame(table.to_array(frame), "polars").rows() == [(3, 0.5), (1, 0.25), (3, 0.5)]


def test_what_is_observed_stays_as_it_is(frame):
    table, library = Table.fit(frame), library_of(frame)
    extra = {"id": [2**24 + 1, 2**24 + 3, 2**53 + 1, 0], "third": [1 / 3, 2 / 3, None, 0.1]}
    if library == "pandas":
        frame = frame.assign(**extra).set_index(pandas.Index([5, 7, 9, 11]))
    else:
        frame = frame.with_columns(**{name: polars.Series(values) for name, values in extra.items()})
    table = Table.fit(frame, kinds={"id": "integer", "owner": None})
    x = np.where(np.isnan(table.to_array(frame)), 2.0, -1.0)
    found = table.to_frame(x, like=frame)
    assert list(found.columns) == list(frame.columns)
    assert list(found["id"]) == extra["id"]
    assert list(found["third"]) == [1 / 3, 2 / 3, 2 / 3, 0.1]  # within what was seen
    assert list(found["wage"]) == [1200.5, 2.0, 3100.0, 0.5]
    assert list(found["rooms"]) == [2, 2, 4, 3]
    assert list(found["country"]) == ["France", "Chad", "Chad", "Chad"]
    assert list(found["owner"]) == COLUMNS["owner"]
    if library == "pandas":
        assert list(found.index) == [5, 7, 9, 11]
    with pytest.raises(ValueError, match="x has 3 rows, and the DataFrame that it was made of has 4"):
        table.to_frame(x[:3], like=frame)


def test_only_a_number_that_is_no_whole_one_fills_a_column_of_floats():
    frame = pandas.DataFrame({"rooms": [2.0, None, 4.0], "beds": pandas.Series([1, None, 3], dtype="Int64")})
    table = Table.fit(frame, kinds={"beds": "real"})
    filled = table.to_frame(np.array([[0.0, 0.0], [2.6, 2.25], [0.0, 0.0]]), like=frame)
    assert list(filled["rooms"]) == [2.0, 3.0, 4.0]
    assert list(filled["beds"]) == [1.0, 2.25, 3.0]
    other = pandas.DataFrame({"rooms": [2.5, None], "beds": [1, 2]})  # of another table, with halves
    assert list(table.to_frame(np.full((2, 2), 3.0), like=other)["rooms"]) == [2.5, 3.0]


def test_without_pandas_the_default_is_polars(monkeypatch):
    table = Table.fit(pandas.DataFrame({"x": [1.0, 2.0]}))
    assert library_of(table.to_frame(np.ones((1, 1)))) == "pandas"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert library_of(table.to_frame(np.ones((1, 1)))) == "polars"


def test_the_config_is_json(frame):
    table = Table.fit(frame)
    config = json.loads(json.dumps(table.get_config(), allow_nan=False))
    assert Table.from_config(config).columns == table.columns
    assert config[-1].keys() == {"name", "kind", "categories", "dtype"}
    assert "categories" not in config[0]


def test_a_model_of_a_table_holds_it_and_is_saved_with_it(frame, tmp_path):
    table = Table.fit(frame)
    likelihood = table.likelihood(Laplace("learned", per_column=True))
    network = networks.mlp(table.width, 2, hidden=(8,), likelihood=likelihood)
    vae = VAE(*network, likelihood, seed=0, allow_missing=True)
    vae.compile("adam")
    x = np.tile(table.to_array(frame), (8, 1))
    vae.fit(x, verbose=0)
    vae.save(tmp_path / "vae.keras")
    copy = keras.saving.load_model(tmp_path / "vae.keras")
    assert copy.likelihood.table.columns == table.columns
    np.testing.assert_array_equal(copy.elbo(x, seed=0), vae.elbo(x, seed=0))
    library = library_of(frame)
    drawn = copy.likelihood.table.to_frame(copy.sample(20, seed=0, draw=True), library)
    assert list(drawn.columns) == list(COLUMNS)
    assert set(drawn["country"]) <= {"France", "Chad"}
    filled = table.to_frame(vae.impute(x, seed=0), library)
    assert not any(value is None for value in filled["country"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"country": ["France", "Mars", None, "Chad"]},
            r"'country' holds 'Mars' in row 1, counted from 0.* 'Chad', 'France'",
        ),
        ({"age": [31, "?", 22, 67]}, "'age' must hold numbers"),
        ({"age": [31, np.inf, 22, 67]}, "'age' holds an infinite value, first in row 1"),
    ],
)
def test_values_that_were_not_there_are_named(change, words):
    table = Table.fit(pandas.DataFrame(COLUMNS))
    with pytest.raises(ValueError, match=words):
        table.to_array(pandas.DataFrame(COLUMNS | change))


@pytest.mark.parametrize(
    ("frame", "kinds", "words"),
    [
        (np.zeros((2, 2)), None, r"names of columns must be text, and one is 0: df.columns = df.columns.map\(str\)"),
        ({("a", "b"): [1.0]}, None, r"must be text, and one is \('a', 'b'\)"),
        ({"a": []}, None, "The table has no row"),
        ({}, None, "The table has no"),
        ({"a": [1.0]}, "category", r"kinds must map names to kinds, such as .*; got \'category\'"),
        ({"a": [[1], [2]]}, None, "'a' holds values of type list, and categories are text"),
        ({"a": [1, "b"]}, None, "'a' holds values of type int and str, .* all of one type: make them text"),
        ({"a": [True, 1]}, {"a": "category"}, "'a' holds values of type bool and int"),
        ({"a": [1.0, np.inf]}, {"a": "category"}, "'a' holds values of type float, .* finite"),
        ({"a": [pandas.Timestamp("2020-01-01")]}, {"a": "category"}, "'a' holds values of type Timestamp"),
        ({"a": [5, 2**24 + 1]}, None, r"'a' has whole numbers from 5 to 16777217, .*kinds={'a': None}.*\"category\""),
        ({"a": [-(2.0**30), None]}, None, "'a' has whole numbers from -1073741824 to -1073741824"),
    ],
)
def test_frames_that_it_refuses(frame, kinds, words):
    with pytest.raises(ValueError, match=words):
        Table.fit(pandas.DataFrame(frame), kinds)


def test_names_that_occur_twice_are_refused():
    with pytest.raises(ValueError, match="Several columns have the name 'a'"):
        Table.fit(pandas.DataFrame(np.zeros((2, 3)), columns=["b", "a", "a"]))


def test_large_whole_numbers_are_read_where_they_are_said_to_be_numbers():
    frame = pandas.DataFrame({"people": [2**24 + 2, 2**24 + 4], "at": [2**24, -(2**24)]})
    table = Table.fit(frame, kinds={"people": "integer"})
    pandas.testing.assert_frame_equal(table.to_frame(table.to_array(frame)), frame)


def test_columns_that_name_the_rows_are_refused_unless_a_kind_is_said():
    n = 30
    columns = {"id": range(7, 7 + n), "name of": [f"n{i // 2 if i < 20 else i}" for i in range(n)], "x": [0, 1] * 15}
    frame = pandas.DataFrame(columns)
    words = r"'id', 'name of' do not .* kinds={'id': None, 'name of': None} \(--kinds 'id=none,name of=none'\)"
    with pytest.raises(ValueError, match=words):
        Table.fit(frame)
    assert Table.fit(frame, {"id": "integer", "name of": "category"}).width == 1 + 20 + 1
    frame.loc[0, "id"] = 99  # whole numbers that do not count, and text that repeats
    frame.loc[20:26, "name of"] = "n20"
    assert Table.fit(frame).width == 1 + 14 + 1
    assert Table.fit(pandas.DataFrame(columns).head(20)).width == 1 + 10 + 1  # few


def test_the_logarithm_of_a_positive_number_is_modelled(frame):
    """Whole numbers come back whole; no draw is beyond what was seen; nats are those of the logarithm."""
    table = Table.fit(frame, {"wage": "log", "age": "log"})
    x = table.to_array(frame)
    np.testing.assert_allclose(np.exp(x[:, :2]), [[31, 1200.5], [45, np.nan], [22, 3100], [67, 0.5]], rtol=1e-5)
    complete = table.to_frame(x, like=frame)
    found = table.to_frame(np.full((1, table.width), 1e6, "float32"), library_of(frame))
    assert (found["age"][0], found["wage"][0]) == (67, 3100.0)
    assert [str(complete[name].dtype) for name in ("age", "wage")] == [
        str(frame[name].dtype) for name in ("age", "wage")
    ]
    logarithm = np.log([1200.5, 3100.0, 0.5])
    assert table.columns[1].mean == pytest.approx(logarithm.mean())
    assert table.columns[1].stddev == pytest.approx(logarithm.std())
    assert Table.from_config(json.loads(json.dumps(table.get_config()))).columns == table.columns
    with pytest.raises(ValueError, match=r"'wage' holds -1, and the logarithm is of positive .*kinds={'wage': 'real'}"):
        table.to_array(pandas.DataFrame(COLUMNS | {"wage": [1.0, 2.0, -1.0, 3.0]}))


def test_a_skewed_column_is_warned_of_unless_its_kind_is_said():
    masses = pandas.DataFrame({"mass": np.exp(np.random.default_rng(0).normal(0.0, 2.0, 100))})
    with pytest.warns(
        UserWarning, match=r"'mass' is positive and skewed, .*\(--kinds mass=log\) models that; kinds={'m"
    ):
        assert Table.fit(masses).columns[0].kind == "real"
    assert [Table.fit(masses, {"mass": kind}).columns[0].kind for kind in ("log", "real")] == ["log", "real"]
    Table.fit(pandas.DataFrame({"wait": np.random.default_rng(0).exponential(size=1000)}))  # no warning


def test_all_columns_that_are_wrong_are_named_at_once():
    n = 700
    frame = pandas.DataFrame(
        {
            "id": [f"a{i}" for i in range(n)],
            "moisture": [f"{i % 90} %" if i % 30 == 7 else f"{i % 90}" for i in range(n)],
            "day": [f"2026-{1 + i // 2 % 12:02}-{1 + i // 2 % 29:02}" for i in range(n)],
            "x": np.linspace(-1.0, 1.0, n),
        }
    )
    words = (
        r"The values of 'id' do not repeat",
        r"'moisture' holds text in 24 cells, first '7 %' in row 7, .*\(--kinds moisture=category\)",
        r"'day' has 348 categories, .*make numbers of dates, such as the day of the year",
    )
    with pytest.raises(ValueError) as refused:
        Table.fit(frame)
    for line, word in zip(str(refused.value).split("\n"), words, strict=True):
        assert re.search(word, line), line
    with pytest.raises(ValueError, match="'moisture' must hold numbers; row 7, counted from 0, holds '7 %'"):
        Table.fit(frame[["moisture"]], {"moisture": "real"})


def test_a_table_of_numbers_alone_is_modelled_too():
    frame = pandas.DataFrame({"x": [1.5, 2.0, 4.0], "y": [0.5, None, 1.0]})
    table = Table.fit(frame)
    likelihood = table.likelihood()
    vae = VAE(*networks.mlp(2, 2, hidden=(3,), likelihood=likelihood), likelihood, seed=0, allow_missing=True)
    assert not table.to_frame(vae.impute(table.to_array(frame), seed=0), like=frame).isna().any().any()


def test_what_it_refuses():
    frame = pandas.DataFrame(COLUMNS)
    table = Table.fit(frame)
    with pytest.raises(ValueError, match="no column 'age'"):
        table.to_array(frame.drop(columns="age"))
    with pytest.raises(ValueError, match=r"shape \(n, 7\), as to_array gives it; got \(4, 5\)"):
        table.to_frame(np.zeros((4, 5)))
    with pytest.raises(
        ValueError, match=r"got \(2, 4, 7\). Of several draws make each a DataFrame: to_frame\(x\[0\]\)"
    ):
        table.to_frame(np.zeros((2, 4, 7)))
    with pytest.raises(ValueError, match=r"shape \(\.\.\., 7\), as to_array gives it; got \(4, 5\)"):
        table.by_column(np.zeros((4, 5)))
    with pytest.raises(ValueError, match=r"'country' holds \['Chad'\] in row 0, counted from 0, which is none of the"):
        table.to_array(frame.assign(country=[["Chad"], None, None, None]))
    with pytest.raises(ValueError, match="kinds names 'heigth', which is no column"):
        Table.fit(frame, kinds={"heigth": "real"})
    with pytest.raises(ValueError, match="kind of 'age' must be one of real, log, integer, category, or None"):
        Table.fit(frame, kinds={"age": "number"})
    with pytest.raises(ValueError, match="'empty' has no value: leave it out"):
        Table.fit(frame.assign(empty=np.nan))
    with pytest.raises(ValueError, match=r"'day' holds Datetime.* neither a number nor a category"):
        Table.fit(frame.assign(day=pandas.Timestamp("2020-01-01")))
    with pytest.raises(ValueError, match=r"'name' has 300 categories, .* leave it out, .*\(--kinds name=none\)"):
        Table.fit(pandas.DataFrame({"name": [f"n{i}" for i in range(300)]}), {"name": "category"})
    with pytest.raises(ValueError, match=r"DataFrame of pandas or polars; got a ndarray"):
        Table.fit(np.zeros((3, 3)))
