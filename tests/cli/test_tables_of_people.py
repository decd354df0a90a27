"""A spreadsheet as data of the commands: trained on as it is, drawn, filled in, and scored with the guilty columns."""

import contextlib
import csv
import io
import json
import pathlib
import re
import shlex
import shutil

import keras
import numpy as np
import polars
import pytest

import people
import served
from keras_vae import VAE, datasets, networks
from keras_vae_cli import commands, export, impute
from keras_vae_serving import Pipeline

pytestmark = pytest.mark.once

TRAIN = ("--hidden", "32", "--latent-dim", "2", "--epochs", "25", "--batch-size", "50", "--learning-rate", "0.02")


def run(*arguments):
    return commands.main([str(argument) for argument in arguments])


def read(path, delimiter=";"):
    with open(path, encoding="utf-8-sig", newline="") as file:
        return list(csv.reader(file, delimiter=delimiter))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """people.csv, the run of a model of it, and what `train` said."""
    folder = tmp_path_factory.mktemp("people")
    people.write(folder / "people.csv")
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        assert (
            run("train", "--data", folder / "people.csv", "--kinds", "id=none", *TRAIN, "--output", folder / "run") == 0
        )
    (folder / "said.txt").write_text(said.getvalue())
    return folder


def test_train_says_what_it_made_of_the_columns(folder):
    lines = (folder / "said.txt").read_text().splitlines()
    _, is_missing = people.write(folder / "again.csv")
    assert "people.csv: 750 rows to train on, 150 held out." in lines[0]
    assert lines[1:4] == ["real      wage", "integer   grade", "category  trade (3), town (2)"]
    count = is_missing.sum()
    share = f"{count / (900 * 4):.1%}"
    assert lines[4] == f"missing   {count} cells ({share}), of wage, grade, trade: the loss leaves them out"
    assert sum(line.startswith("epoch") for line in lines) == 25
    files = ["history.csv", "model.keras", "samples.csv", "summary.json"]
    assert sorted(file.name for file in (folder / "run").iterdir()) == files
    assert len(read(folder / "run" / "samples.csv", ",")) == 101


def test_training_stops_by_the_held_out_rows_and_keeps_the_best(tmp_path, capsys):
    rng = np.random.default_rng(0)
    lines = ["a,b,c", *(",".join(f"{value:.2f}" for value in row) for row in rng.normal(size=(60, 3)))]
    (tmp_path / "noise.csv").write_text("\n".join(lines))
    arguments = ("train", "--data", tmp_path / "noise.csv", *TRAIN[:4], "--batch-size", "10", "--learning-rate", "0.03")

    def train(*more):
        assert run(*arguments, *more, "--output", tmp_path / "run", "--overwrite") == 0
        summary = json.loads((tmp_path / "run" / "summary.json").read_text())
        nats = polars.read_csv(tmp_path / "run" / "history.csv")["val_negative_elbo"].to_list()
        assert len(nats) == summary["epochs"]
        return nats, summary

    nats, summary = train("--epochs", "60", "--patience", "4", "--warm-up", "3")
    kept, held_out = summary["kept_epoch"], summary["held_out"]
    assert kept == 4 + np.argmin(nats[3:]) == len(nats) - 4
    assert len(nats) < 60
    out = capsys.readouterr().out
    assert f"Kept epoch {kept} of {len(nats)}, chosen by the held-out data" in out
    _, summary = train("--epochs", kept, "--patience", "0", "--warm-up", "3")  # by the same seed
    assert summary["kept_epoch"] == summary["epochs"] == kept
    assert summary["held_out"] == pytest.approx(held_out, rel=1e-5)
    assert "Kept" not in capsys.readouterr().out
    _, summary = train("--epochs", "1", "--warm-up", "3")
    assert summary["settings"]["patience"] == 20
    assert summary["kept_epoch"] == 1
    assert "Kept" not in capsys.readouterr().out  # the held-out data have chosen nothing before the warm-up ends


def test_a_number_filled_in_by_its_logarithm_is_not_called_the_mean(tmp_path, capsys):
    cells = np.random.default_rng(0).lognormal(size=(60, 2)).round(3).astype(str)
    cells[::7, 1] = ""
    (tmp_path / "mass.csv").write_text("\n".join(["length,mass", *map(",".join, cells)]))
    arguments = ("--data", tmp_path / "mass.csv", "--output")
    train = ("train", "--kinds", "length=real,mass=log", *TRAIN[:4], "--epochs", "1", *arguments)
    assert run(*train, tmp_path / "run") == 0
    capsys.readouterr()
    assert run("impute", tmp_path / "run", *arguments, tmp_path / "full.csv") == 0
    assert capsys.readouterr().out.endswith(
        "9 missing values filled in with their mean or likeliest category.\n"
        "Of kind log the value is the exponential of the mean logarithm, near the median: for sums and means "
        "take --draws.\n"
    )


def test_columns_that_name_the_rows_are_a_sentence_with_the_option(folder, capsys):
    assert run("train", "--data", folder / "people.csv", "--output", folder / "none") == 1
    assert "The values of 'id' do not repeat" in (error := capsys.readouterr().err)
    assert "(--kinds id=none)" in error
    assert not (folder / "none").exists()


def test_samples_have_the_types_of_the_data(folder, tmp_path):
    for name in ("s.csv", "s.parquet"):
        assert run("sample", folder / "run", "--num", "300", "--output", tmp_path / name) == 0
    drawn = polars.read_parquet(tmp_path / "s.parquet")
    assert dict(drawn.schema) == {
        "trade": polars.String,
        "wage": polars.Float64,
        "grade": polars.Int64,
        "town": polars.String,
    }
    text = read(tmp_path / "s.csv", ",")
    assert text[0] == drawn.columns
    assert [float(row[1]) for row in text[1:]] == pytest.approx(drawn["wage"].to_list(), rel=1e-6)
    assert [row[3] for row in text[1:]] == drawn["town"].to_list()
    for trade, wage in people.WAGES.items():
        of_trade = drawn.filter(trade=trade)
        assert 50 < len(of_trade) < 150
        assert of_trade["wage"].median() == pytest.approx(wage, rel=0.2)


def test_impute_fills_in_what_is_missing_and_leaves_the_rest(folder, tmp_path, capsys):
    rows, is_missing = people.write(tmp_path / "holes.csv")
    assert run("impute", folder / "run", "--data", tmp_path / "holes.csv", "--output", tmp_path / "full.csv") == 0
    words = f"{is_missing.sum()} missing values filled in with their mean or likeliest category."
    assert words in capsys.readouterr().out
    assert (tmp_path / "full.csv").read_bytes()[:5] == b"\xef\xbb\xbfid"
    assert (tmp_path / "full.csv").read_bytes().endswith(b'1. Bezirk"\r\n') == ("1." in rows[-1][4])
    names, *found = read(tmp_path / "full.csv")
    found = np.array(found, dtype=object)
    assert tuple(names) == people.NAMES
    assert (found[~is_missing] == rows[~is_missing]).all()
    near, by_grade = [], {grade: trade for trade, grade in people.GRADES.items()}
    for i in np.flatnonzero(is_missing.any(axis=1)):
        _, trade, wage, grade, _ = found[i]
        truth = rows[i][1] if not is_missing[i][1] else None
        truth = truth or min(people.WAGES, key=lambda t: abs(people.WAGES[t] - float(wage)))
        assert by_grade.get(int(grade)) == truth or is_missing[i][3], found[i]
        assert trade == truth, found[i]
        near.append(float(wage) == pytest.approx(people.WAGES[truth], rel=0.2))
    assert np.mean(near) > 0.95


def test_commas_of_a_spreadsheet_are_read_and_written(folder, tmp_path):
    rows, is_missing = people.write(tmp_path / "x.csv", n=40)
    text = (tmp_path / "x.csv").read_text(encoding="utf-8-sig")
    (tmp_path / "x.csv").write_text(re.sub(r"(\d)\.(\d\d;)", r"\1,\2", text))
    with_commas = np.array([row[2].replace(".", ",") for row in rows])
    table = keras.saving.load_model(folder / "run" / "model.keras").likelihood.table
    wages = datasets.load(tmp_path / "x.csv", kinds=table, test_fraction=0).train[:, 0]
    assert wages[~is_missing[:, 2]] == pytest.approx(rows[~is_missing[:, 2], 2].astype(float))
    assert run("impute", folder / "run", "--data", tmp_path / "x.csv", "--output", tmp_path / "full.csv") == 0
    filled = np.array(read(tmp_path / "full.csv"))[1:, 2]
    assert (filled == with_commas)[~is_missing[:, 2]].all()
    assert all(re.fullmatch(r"\d{4},\d+", cell) for cell in filled)
    arguments = ("--data", tmp_path / "full.csv", "--threshold", "0.9", "--output", tmp_path / "scored.csv")
    assert run("score", folder / "run", *arguments) == 0
    assert all(re.fullmatch(r"-?\d+,\d+", row[5]) for row in read(tmp_path / "scored.csv")[1:])


def test_draws_are_below_each_other(folder, tmp_path):
    rows, is_missing = people.write(tmp_path / "holes.csv", n=300)
    arguments = ("impute", folder / "run", "--data", tmp_path / "holes.csv", "--draws", "3")
    for name in ("a.csv", "c.parquet"):  # by the same seed
        assert run(*arguments, "--output", tmp_path / name) == 0
    names, *found = read(tmp_path / "a.csv")
    assert tuple(names) == (*people.NAMES, "row", "draw")
    found = np.array(found, dtype=object).reshape(3, 300, 7)
    assert (found[..., 5].astype(int) == np.arange(1, 301)).all()
    assert (found[..., 6].astype(int) == np.arange(1, 4)[:, None]).all()
    assert (found[:, ~is_missing.any(axis=1), :5] == rows[~is_missing.any(axis=1)]).all()
    wages = found[:, is_missing[:, 2] & ~is_missing[:, 1], 2].astype(float)
    spread = (wages.std(axis=0, ddof=1) / wages.mean(axis=0)).mean()
    assert 0.015 < spread < 0.12  # 0.03, and what the model has not learned
    frame = polars.read_parquet(tmp_path / "c.parquet")
    assert frame["grade"].dtype == polars.Int64
    assert frame["wage"].to_numpy() == pytest.approx(found[..., 2].ravel().astype(float), rel=1e-6)


def test_an_interval_is_beside_what_was_filled_in(folder, tmp_path, capsys, monkeypatch):
    """From low to high of each number, and how likely each category is; the truth lies where they say."""
    _, is_missing = people.write(tmp_path / "holes.csv", n=300)
    truth, _ = people.write(tmp_path / "whole.csv", n=300, missing=0.0)
    arguments = ("impute", folder / "run", "--data", tmp_path / "holes.csv", "--output")
    assert run(*arguments, tmp_path / "full.csv") == 0
    assert run(*arguments, tmp_path / "i.csv", "--interval", "0.9") == 0
    assert "From _low to _high lie 0.9 of 100 draws; _probability" in capsys.readouterr().out
    names, *found = read(tmp_path / "i.csv")
    added = ["trade_probability", "wage_low", "wage_high", "grade_low", "grade_high"]
    assert names == [*people.NAMES, *added]  # town has no hole
    found = np.array(found, dtype=object)
    assert found[:, :5].tolist() == read(tmp_path / "full.csv")[1:]
    for i, name in ((1, "trade"), (2, "wage"), (3, "grade")):
        holes = is_missing[:, i]
        more = [found[:, names.index(each)] for each in added if each.startswith(name)]
        assert all((each[~holes] == "").all() for each in more)
        if name == "trade":
            share = more[0][holes].astype(float)
            assert (share[found[holes, 1] == truth[holes, 1]] > 0.5).all()
            assert share.max() <= 1.0
            continue
        low, filled, high, true = (each[holes].astype(float) for each in (more[0], found[:, i], more[1], truth[:, i]))
        assert (low <= filled).all()
        assert (filled <= high).all()
        determined = ~is_missing[holes, 1]  # the trade says it
        inside = ((low <= true) & (true <= high))[determined]
        assert inside.mean() >= 0.8
        assert ((high - low) / true)[determined].mean() < (0.4 if name == "wage" else 1.0)
    monkeypatch.setattr(impute, "MAX_VALUES", 5000)
    assert run(*arguments, tmp_path / "i.parquet", "--interval", "0.5", "--draws", "31") == 0
    narrow = polars.read_parquet(tmp_path / "i.parquet")
    assert len(narrow) == 300
    assert [narrow[name].dtype for name in added] == [polars.Float64] * 3 + [polars.Int64] * 2
    assert narrow["wage_low"].null_count() == (~is_missing[:, 2]).sum()
    wide = found[is_missing[:, 2]][:, [names.index("wage_low"), names.index("wage_high")]].astype(float)
    assert (narrow["wage_high"] - narrow["wage_low"]).mean() < 0.8 * np.diff(wide, axis=1).mean()


def test_score_names_the_columns_that_do_not_fit(folder, tmp_path, capsys):
    rows, _ = people.write(tmp_path / "new.csv", missing=0.0)
    rows = rows[:20]
    rows[3, 2] = "15000.0"  # a wage that nobody has
    rows[7, 4], rows[7, 1:4] = "Graz", ["baker", "?", "9"]  # the grade of a pilot
    rows[9, 1:4] = "?"
    lines = [";".join(people.NAMES), *(";".join([*row[:4], people.quoted(row[4])]) for row in rows)]
    (tmp_path / "new.csv").write_text("\n".join(lines))
    arguments = ("score", folder / "run", "--data", tmp_path / "new.csv", "--output")
    assert run(*arguments, tmp_path / "scored.csv", "--threshold", "0.95") == 0
    out = capsys.readouterr().out.splitlines()
    words = r"of 20 rows score above .* nats, the 0\.95 quantile of 150 held-out rows: at most 5\.00% of these do\."
    assert re.search(words, out[0])
    assert len(out) == 6
    assert re.match(r"line 5 .* nats: wage \+", out[1])  # the first line holds names
    names, *found = read(tmp_path / "scored.csv")
    added = [name for i in (1, 2, 3) for name in (f"column_{i}", f"nats_{i}")]
    assert names == [*people.NAMES, "score", "anomaly", *added]
    assert [row[:5] for row in found] == rows.tolist()
    verdicts = np.array([row[6] == "true" for row in found])
    assert verdicts[[3, 7]].all()
    assert verdicts.sum() <= 5
    assert found[3][7] == "wage"
    assert {"trade", "grade"} & {found[7][7], found[7][9]}
    assert "wage" not in found[7][7::2]  # which is missing
    assert found[9][7] == "town"
    assert found[9][9:] == [""] * 4
    assert all(float(row[8]) >= float(row[10]) >= float(row[12]) for row in found if row[12])
    assert run(*arguments, tmp_path / "scored.parquet") == 0
    assert "interquartile" not in capsys.readouterr().out
    scored = polars.read_parquet(tmp_path / "scored.parquet")
    assert scored["score"].to_list() == [float(row[5]) for row in found]
    assert scored.schema["anomaly"] == polars.Boolean
    assert scored["grade"].to_list()[:3] == [int(row[3]) for row in found[:3]]


def test_held_out_rows_that_are_strange_themselves_get_a_word(folder, tmp_path, capsys, monkeypatch):
    rows, _ = people.write(tmp_path / "people.csv", missing=0.0)
    rows[::25, 2] = "90000.0"  # 4 % of them
    lines = [",".join(people.NAMES[1:4]) + ",town", *(",".join([*row[1:4], "Graz"]) for row in rows)]
    (tmp_path / "strange.csv").write_text("\n".join(lines))
    people.write(tmp_path / "few.csv", n=20)
    (tmp_path / "run").mkdir()
    shutil.copy(folder / "run" / "model.keras", tmp_path / "run")
    (tmp_path / "run" / "summary.json").write_text(json.dumps({"settings": {"data": str(tmp_path / "strange.csv")}}))
    monkeypatch.setattr(export, "write", lambda *arguments, **settings: None)
    words = "more than 10 interquartile ranges above the upper quartile of the held-out scores"
    for quantile, advice in (("0.99", "Pass --threshold 0.95, or train on rows known to be normal"), ("0.9", None)):
        for verb in (
            ("score", tmp_path / "run", "--data", tmp_path / "few.csv", "--output", tmp_path / f"{quantile}.csv"),
            ("export", tmp_path / "run", tmp_path / "bundle"),
        ):
            assert run(*verb, "--threshold", quantile) == 0
            out = capsys.readouterr().out
            assert (words in out) == (advice is not None)
            assert advice is None or advice in out
    assert "quantile of 150 held-out rows: 10.00% of rows like the held-out ones, give or take 2.45%, will be" in out


def test_a_bundle_of_it_is_asked_by_the_names_of_the_columns(folder, tmp_path, capsys):
    """The chain to its end: the CSV is trained on, exported and served, and curl could send these requests."""
    assert run("export", folder / "run", tmp_path / "bundle", "--threshold", "0.95") == 0
    capsys.readouterr()
    vae = keras.saving.load_model(folder / "run" / "model.keras")
    table, threshold = vae.likelihood.table, Pipeline.load(tmp_path / "bundle", providers="cpu").threshold
    cells, is_missing = people.write(tmp_path / "new.csv", n=120)
    types = {"trade": str, "wage": float, "grade": int, "town": str}
    rows = [
        {
            name: None if gone else types[name](cell)
            for name, cell, gone in list(zip(people.NAMES, *row, strict=True))[1:]
        }
        for row in zip(cells, is_missing, strict=True)
    ]
    x = table.to_array(polars.DataFrame(rows))
    assert run("card", tmp_path / "bundle", "--data", tmp_path / "new.csv") == 0
    card = (tmp_path / "bundle" / "README.md").read_text()
    assert "| columns | trade (category), wage (real), grade (integer), town (category) |" in card
    assert f"{tmp_path}/new.csv, 120 examples" in card
    assert "bits" not in card  # of a density there are none
    with served.serving(tmp_path / "bundle") as client:
        filled = client.predict("impute", rows, seed=0)
        expected = table.to_frame(vae.impute(x, seed=0), like=polars.DataFrame(rows)).to_dicts()
        for row, other, given in zip(filled, expected, rows, strict=True):
            assert row == {**other, "wage": pytest.approx(other["wage"], rel=1e-4)}
            assert {name: row[name] for name in given if given[name] is not None}.items() <= given.items()
        drawn = client.predict("impute", [{"trade": "miner"}, rows[0]], seed=0, draws=3)
        assert [[row["trade"] for row in rows] for rows in drawn] == [["miner"] * 3, [filled[0]["trade"]] * 3]
        scored = client.predict("score", [*rows, {"trade": "baker", "wage": 15000, "grade": 1, "town": "Graz"}])
        elbo = vae.elbo(x, threshold.num_samples, seed=threshold.seed)
        assert [row["negative_elbo"] for row in scored[:-1]] == pytest.approx(-elbo, rel=1e-4)
        assert [row["is_anomaly"] for row in scored[:-1]] == (-elbo > threshold.nats).tolist()
        assert scored[-1]["is_anomaly"]
        assert next(iter(scored[-1]["surprise"])) == "wage"
        for row in client.predict("sample", n=50, seed=0):
            assert {name: type(value) for name, value in row.items()} == types
        assert "column 'trade': 'painter' is none of its categories" in client.predict("score", [{"trade": "painter"}])


def test_evaluate_reads_the_columns_by_their_names(folder, tmp_path, capsys):
    held_out = json.loads((folder / "run" / "summary.json").read_text())["held_out"]
    shuffled = read(folder / "people.csv")
    order = [4, 2, 0, 3, 1]
    with open(tmp_path / "other.tsv", "w", newline="") as file:
        csv.writer(file, delimiter="\t").writerows([[row[i] for i in order] for row in shuffled])
    for data in ((), ("--data", tmp_path / "other.tsv")):
        assert run("evaluate", folder / "run", "--json", *data) == 0
        assert json.loads(capsys.readouterr().out)["negative_elbo"] == pytest.approx(
            held_out["negative_elbo"], rel=1e-6
        )


def test_an_array_is_filled_in(tmp_path, capsys):
    x = np.random.default_rng(0).normal(size=(40, 3))
    x[::7, 1] = np.nan
    np.save(tmp_path / "x.npy", x)
    vae = VAE(*networks.mlp((3,), 2, hidden=(4,)), "gaussian", allow_missing=True, seed=0)
    vae.save(tmp_path / "vae.keras")
    arguments = ("impute", tmp_path / "vae.keras", "--data", tmp_path / "x.npy", "--output")
    assert run(*arguments, tmp_path / "full.npy") == 0
    assert run(*arguments, tmp_path / "draws.npy", "--draws", "2") == 0
    full, draws = np.load(tmp_path / "full.npy"), np.load(tmp_path / "draws.npy")
    assert (full.shape, full.dtype, draws.shape) == ((40, 3), np.float64, (2, 40, 3))
    observed = ~np.isnan(x)
    assert (full[observed] == x[observed]).all()
    assert (draws[:, observed] == x[observed]).all()
    assert np.isfinite(full).all()
    np.testing.assert_array_equal(full[~observed], vae.impute(x, seed=0)[~observed])
    capsys.readouterr()


def test_mistakes_are_sentences(folder, tmp_path, capsys):
    people.write(tmp_path / "people.csv")
    whole = ("impute", folder / "run", "--data", tmp_path / "people.csv", "--output")
    (tmp_path / "row.csv").write_text("row,trade,wage,grade,town\n1,baker,,1,Graz\n")
    (tmp_path / "mars.csv").write_text("score,trade,wage,grade,town\n1,baker,,1,Mars\n")
    vae = VAE(*networks.mlp((3,), 2, hidden=(4,)), "gaussian", seed=0)
    vae.save(tmp_path / "vae.keras")
    (tmp_path / "old.csv").write_text("old")
    for arguments, words in (
        ((*whole, tmp_path / "old.csv"), "old.csv exists already: choose another output, or replace it with --over"),
        (("score", *whole[1:], tmp_path / "old.csv"), "old.csv exists already"),
        ((*whole, tmp_path / "x.npy"), "must both be arrays .* or both tables"),
        ((*whole, tmp_path / "none" / "x.csv"), "the folder .*none does not exist"),
        ((*whole[:2], "--data", "nowhere.csv", "--output", tmp_path / "x.csv"), "There is no file nowhere.csv"),
        (
            (*whole[:2], "--data", tmp_path / "row.csv", "--draws", "2", "--output", tmp_path / "x.csv"),
            "gets a column 'row', and the data have one already",
        ),
        ((*whole, tmp_path / "x.csv", "--interval", "0.95", "--draws", "38"), "needs at least 39 draws: --draws 39"),
        (
            ("score", folder / "run", "--data", tmp_path / "mars.csv", "--output", tmp_path / "x.csv"),
            "Column 'town' of .*mars.csv has values that the model does not know: line 2 has 'Mars'",
        ),
        (
            ("score", folder / "run", "--data", tmp_path / "people.csv", "--output", tmp_path / "x.png"),
            "must end in .csv, .tsv or .parquet",
        ),
        (
            (
                "score",
                folder / "run",
                "--data",
                tmp_path / "row.csv",
                "--threshold",
                ".999",
                "--output",
                tmp_path / "x.csv",
            ),
            "needs at least 1001 examples",
        ),
        (
            ("impute", tmp_path / "vae.keras", "--data", tmp_path / "row.csv", "--output", tmp_path / "x.csv"),
            "trained on data without missing values: train one with --allow-missing",
        ),
        (
            ("score", tmp_path / "vae.keras", "--data", tmp_path / "x.npy", "--output", tmp_path / "x.csv"),
            "There is no file or folder",
        ),
    ):
        assert run(*arguments) == 1
        error = capsys.readouterr().err
        assert re.search(words, error), error
        assert error.count("\n") == 1
    files = ["mars.csv", "old.csv", "people.csv", "row.csv", "vae.keras"]
    assert sorted(file.name for file in tmp_path.iterdir()) == files


def test_any_data_are_scored_by_their_places(tmp_path, capsys):
    """And what a place costs on average in the held-out data is no surprise."""
    np.save(tmp_path / "x.npy", np.random.default_rng(0).random((240, 1, 3)).astype("float32") * [0.1, 1.0, 3.0])
    VAE(*networks.mlp((1, 3), 2, hidden=(4,)), "mse", seed=0).save(tmp_path / "model.keras")
    (tmp_path / "summary.json").write_text(json.dumps({"settings": {"data": str(tmp_path / "x.npy")}}))
    held_out = datasets.load(tmp_path / "x.npy").test
    np.save(tmp_path / "new.npy", held_out)
    arguments = ("score", tmp_path, "--data", tmp_path / "new.npy", "--threshold", "0.9", "--output")
    assert run(*arguments, tmp_path / "usual.parquet") == 0
    usual = polars.read_parquet(tmp_path / "usual.parquet")
    assert usual.columns[:4] == ["score", "anomaly", "column_1", "nats_1"]
    assert usual["anomaly"].sum() == 3  # of 40, above the score at their 90% quantile
    for name in ("0,0", "0,1", "0,2"):
        nats = [dict(zip(row[2::2], row[3::2], strict=True))[name] for row in usual.rows()]
        assert np.mean(nats) == pytest.approx(0.0, abs=1e-3)
        assert np.std(nats) > 0.0
    held_out[5, 0, 0] = 4.0
    np.save(tmp_path / "new.npy", held_out)
    assert run(*arguments, tmp_path / "scored.parquet") == 0
    assert polars.read_parquet(tmp_path / "scored.parquet").row(5)[1:3] == (True, "0,0")
    x = np.random.default_rng(0).random((900, 1, 3)).astype("float32")
    x[::25] = 90.0  # 4 % of them
    np.save(tmp_path / "x.npy", x)
    assert run(*arguments[:-2], "0.99", "--output", tmp_path / "strange.parquet") == 0
    out = capsys.readouterr().out
    assert "strange examples themselves. Pass --threshold 0.95, or train on examples known to be normal." in out


def test_the_chain_of_the_guide(tmp_path, monkeypatch, capsys):
    """All but the last lines, which export, serve and ask: test_readme.py runs them too."""
    docs = pathlib.Path(__file__).parents[2] / "docs"
    monkeypatch.chdir(tmp_path)
    pathlib.Path("docs").mkdir()
    people.write("docs/people.csv")
    assert pathlib.Path("docs/people.csv").read_bytes() == (docs / "people.csv").read_bytes()
    guide = (docs / "guide" / "shell.md").read_text()
    block = next(text for text in re.findall(r"```bash\n(.*?)```", guide, flags=re.DOTALL) if "people.csv" in text)
    for line in block.splitlines():
        program, verb, *arguments = shlex.split(line)
        assert program in ("keras-vae", "curl")
        if program == "keras-vae" and verb not in ("export", "card", "serve"):
            assert run(verb, *arguments, *(("--epochs", "1", "--hidden", "8") if verb == "train" else ())) == 0
    table = keras.saving.load_model("people/model.keras").likelihood.table
    assert table.names[0] == "wage"
    complete = datasets.load("complete.csv", kinds=table).train
    assert complete.shape == (750, 7)
    assert not np.isnan(complete).any()
    capsys.readouterr()
