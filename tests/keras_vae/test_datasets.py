"""Data from every source, and a sentence for every file that cannot be read."""

import gzip
import importlib.util
import struct
import sys

import numpy as np
import pytest
from PIL import Image

from keras_vae import _tables, datasets

pytestmark = pytest.mark.once


def write_idx(path, array, compress=True):
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    data = header + array.astype("u1").tobytes()
    path.write_bytes(gzip.compress(data) if compress else data)


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (12, 5, 4), dtype="uint8")


def test_digits_are_embedded_and_split_the_same_way_every_time():
    data, again = datasets.load("digits"), datasets.load("digits")
    assert data.train.shape == (1497, 8, 8, 1)
    assert data.test.shape == (300, 8, 8, 1)
    assert data.train.dtype == "float32"
    assert (data.train.min(), data.train.max()) == (0.0, 1.0)
    assert set(data.test_labels) == set(range(10))
    np.testing.assert_array_equal(data.test, again.test)


def test_binarising(images, tmp_path):
    grey, hard, drawn = (datasets.load("digits", binarize=how) for how in (None, "threshold", "sample"))
    np.testing.assert_array_equal(hard.train, grey.train >= 0.5)
    assert set(np.unique(drawn.train)) == {0.0, 1.0}
    assert abs(drawn.train.mean() - grey.train.mean()) < 0.01
    np.testing.assert_array_equal(drawn.test, datasets.load("digits", binarize="sample").test)
    with pytest.raises(ValueError, match='"threshold" or "sample"'):
        datasets.load("digits", binarize="otsu")
    np.save(tmp_path / "x.npy", 3.0 * images)
    with pytest.raises(ValueError, match=r"Only data in \[0, 1\] can be binarised"):
        datasets.load(tmp_path / "x.npy", binarize="threshold")


def test_npy_bytes_become_pixels_and_floats_stay(images, tmp_path):
    np.save(tmp_path / "bytes.npy", images)
    data = datasets.load(tmp_path / "bytes.npy")
    assert len(data.train) == 10
    assert len(data.test) == 2
    together = np.sort(np.concatenate([data.train, data.test]).ravel())
    np.testing.assert_allclose(together, np.sort(images.ravel() / 255.0), rtol=1e-6)
    np.save(tmp_path / "floats.npy", images.astype("float64") * 10.0)
    assert datasets.load(tmp_path / "floats.npy").train.max() > 1000.0
    np.save(tmp_path / "levels.npy", images % 17)  # 17 levels: not for us to divide, but for the likelihood to name
    assert datasets.load(tmp_path / "levels.npy").train.max() == 16.0
    np.save(tmp_path / "binary.npy", (images > 99).astype("uint8"))
    assert datasets.load(tmp_path / "binary.npy").train.max() == 1.0


@pytest.mark.parametrize("names", [("train", "test"), ("x_train", "x_test"), ("anything",)])
def test_npz(images, tmp_path, names):
    np.savez(tmp_path / "x.npz", **dict.fromkeys(names, images))
    data = datasets.load(tmp_path / "x.npz")
    (tmp_path / "x.npz").rename(tmp_path / "x.npy")  # the content counts, not the name
    assert len(datasets.load(tmp_path / "x.npy").train) == len(data.train)
    assert (len(data.train), len(data.test)) == ((12, 12) if len(names) == 2 else (10, 2))


def test_a_folder_of_idx_files_with_labels(images, tmp_path):
    for part, n in (("train", 12), ("t10k", 6)):
        write_idx(tmp_path / f"{part}-images-idx3-ubyte.gz", images[:n])
        write_idx(tmp_path / f"{part}-labels-idx1-ubyte.gz", np.arange(n))
    data = datasets.load(tmp_path)
    np.testing.assert_allclose(data.train[..., 0], images / 255.0, rtol=1e-6)
    np.testing.assert_array_equal(data.test_labels, np.arange(6))
    write_idx(tmp_path / "alone-idx3-ubyte", images, compress=False)
    assert datasets.load(tmp_path / "alone-idx3-ubyte").train.shape == (10, 5, 4, 1)


def test_real_mnist(real_data):
    data = datasets.load(real_data / "mnist")
    assert data.train.shape == (60000, 28, 28, 1)
    assert data.test.shape == (10000, 28, 28, 1)
    assert data.train_labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert data.train.mean() == pytest.approx(0.1307, abs=1e-4)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_folder_of_images(tmp_path, mode):
    (tmp_path / "inside").mkdir()
    for i in range(7):
        Image.new(mode, (4, 5), 36 * i if mode == "L" else (36 * i, 0, 255)).save(tmp_path / "inside" / f"{i}.png")
    data = datasets.load(tmp_path)
    assert data.train.shape == (6, 5, 4, 1 if mode == "L" else 3)
    assert data.train.max() <= 1.0


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        ("2 10", [2, 10]),
        ("cat dog", ["cat", "dog"]),
        ("2 x", ["2", "x"]),
        ("1 01", ["1", "01"]),
        ("01 10", [1, 10]),
        ("9223372036854775807 0", [2**63 - 1, 0]),
        ("20231129123456789012 1", ["20231129123456789012", "1"]),
        ("a/cat b/dog", ["cat", "dog"]),
        ("a/cat b/cat c/dog", ["cat", "cat", "dog"]),
        ("a/x b/x", ["all/a/x", "all/b/x"]),
    ],
)
def test_the_folders_of_images_are_their_labels(tmp_path, names, labels):
    for value, name in enumerate(names.split()):
        (tmp_path / "all" / name).mkdir(parents=True)
        for i in range(4):
            Image.new("L", (4, 5), 100 * value).save(tmp_path / "all" / name / f"{i}.png")
    data = datasets.load(tmp_path)
    found = [
        (np.array(labels)[np.rint(2.55 * x[:, 0, 0, 0]).astype(int)], y)
        for x, y in zip(data[:2], data[2:4], strict=True)
    ]
    assert [y.tolist() for _, y in found] == [wanted.tolist() for wanted, _ in found]
    assert datasets.load(tmp_path / "all" / names.split()[0]).train_labels is None


def test_an_image_is_read_as_a_viewer_shows_it(tmp_path):
    """Turned by its EXIF data, on white where it is transparent, resized if told; hidden files are none of the data."""
    left, exif = Image.new("L", (4, 3)), Image.Exif()
    left.putpixel((0, 0), 255)
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    for i in range(7):
        left.save(tmp_path / f"{i}.png", exif=exif)
    for name in (".DS_Store", "._0.png", "Thumbs.db", "__MACOSX/._0.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"no image")
    data = datasets.load(tmp_path)
    assert data.train.shape == (6, 4, 3, 1)
    assert np.argwhere(data.test[0, ..., 0]).tolist() == [[0, 2]]

    Image.new("L", (4, 3)).save(tmp_path / "z.png")
    with pytest.raises(ValueError, match="0.png is 4x3 grey and z.png is 3x4 grey: .*resize="):
        datasets.load(tmp_path)
    assert datasets.load(tmp_path, resize=(6, 5)).train.shape == (7, 6, 5, 1)
    assert datasets.load(tmp_path, resize=2).train.shape == (7, 2, 2, 1)
    with pytest.raises(ValueError, match="for a folder of images, and digits is none"):
        datasets.load("digits", resize=2)


def test_transparent_pixels_are_white_and_said(tmp_path):
    for i, colour in enumerate([(0, 0, 0, 255), (0, 0, 0, 0), (100, 0, 0, 51)]):
        Image.new("RGBA", (2, 2), colour).save(tmp_path / f"{i}.png")
    with pytest.warns(UserWarning, match="2 of 3 images have transparent pixels: blended with white"):
        data = datasets.load(tmp_path)
    found = np.concatenate([data.train, data.test])[:, 0, 0] * 255.0
    assert sorted(found.round().tolist()) == [[0, 0, 0], [224, 204, 204], [255, 255, 255]]


@pytest.mark.parametrize("names", [("x", "y"), ("images", "labels"), ("x_train", "x_test", "y_train", "y_test")])
def test_labels_in_an_npz_are_labels(images, tmp_path, names):
    arrays = {name: np.arange(12) if name.startswith(("y", "labels")) else images for name in names}
    np.savez(tmp_path / "x.npz", **arrays)
    data = datasets.load(tmp_path / "x.npz")
    for x, labels in ((data.train, data.train_labels), (data.test, data.test_labels)):
        np.testing.assert_allclose(x, images[labels] / 255.0, rtol=1e-6)
    assert datasets.load("digits").columns is None


def test_tables(tmp_path):
    text = "age;name of; \n1;2.5;0\n;-3e2;1\n3;NA;0\n\n"
    for name, content in (("a.csv", text), ("b.tsv", text.replace(";", "\t")), ("c.csv", "\ufeff" + text)):
        (tmp_path / name).write_text(content.replace(";", ",") if name == "c.csv" else content, encoding="utf-8")
        data = datasets.load(tmp_path / name)
        assert data.columns == ("age", "name of", "")
        x = np.concatenate([data.train, data.test])
        order = np.argsort(np.nan_to_num(x[:, 0], nan=2.0))
        np.testing.assert_array_equal(x[order], [[1, 2.5, 0], [np.nan, -300, 1], [3, np.nan, 0]])
        np.testing.assert_array_equal(datasets.load(tmp_path / name, test_fraction=0).train, x[order])
    (tmp_path / "numbers.csv").write_text("1,2\n3,4\n5,6\n")
    with pytest.warns(UserWarning, match="first line of .*numbers.csv holds values, not names"):
        data = datasets.load(tmp_path / "numbers.csv")
    assert (data.columns, len(data.train) + len(data.test)) == (("0", "1"), 3)
    (tmp_path / "index.csv").write_text(",a\n0,2\n1,4\n2,6\n")
    with pytest.warns(UserWarning, match="first column of .* counts the rows: it is left out"):
        assert datasets.load(tmp_path / "index.csv").columns == ("a",)


def test_tables_of_text(tmp_path):
    lines = [
        "39, Private, 01234, 1e3, 7",
        "50, ?, 00017, nan, ?",
        " 38, Private, 01234, <NA>, None",
        "1,State, , 2.5, 7",
    ]
    (tmp_path / "t.csv").write_text("\n".join(["age,work,zip,pay,n", *lines]))
    data = datasets.load(tmp_path / "t.csv", test_fraction=0, kinds={"n": "category"})
    assert [(column.kind, column.categories) for column in data.table.columns] == [
        ("integer", ()),
        ("category", ("Private", "State")),
        ("category", ("00017", "01234")),  # a code
        ("real", ()),
        ("category", (7,)),
    ]
    nan = np.nan
    expected = [[39, 1000, 1, 0, 0, 1, 1], [50, nan, nan, nan, 1, 0, nan], [38, nan, 1, 0, 0, 1, nan]]
    np.testing.assert_array_equal(data.train, [*expected, [1, 2.5, 0, 1, nan, nan, 1]])
    assert datasets.load(tmp_path / "t.csv", kinds={"zip": "integer"}).columns[1] == "zip"
    (tmp_path / "new.csv").write_text("zip,n,pay,work,age,more\n17,7,1,State,2,x\n00017,7,1,State,2,y")
    words = "Column 'zip' of .*new.csv has values that the model does not know: line 2 has '17'"
    with pytest.raises(ValueError, match=words):
        datasets.load(tmp_path / "new.csv", kinds=data.table)
    (tmp_path / "new.csv").write_text("zip,n,pay,work,age\n00017,7,1,State,2\n\n01234,7,1,?,old")
    with pytest.raises(ValueError, match="Column 'age' of .*new.csv must hold numbers: line 4 has 'old'"):
        datasets.load(tmp_path / "new.csv", kinds=data.table)
    (tmp_path / "adult.data.csv").write_text("\n".join(lines[:3]))
    with pytest.warns(UserWarning, match="holds values, not names"):
        assert datasets.load(tmp_path / "adult.data.csv").columns[:3] == ("0", "3", "4")


def test_parquet(tmp_path, monkeypatch):
    polars = pytest.importorskip("polars")
    frame = polars.DataFrame({"a": [1, None, 3], "b": [True, False, True], "city": ["x", "y", "x"]})
    frame.write_parquet(tmp_path / "t.parquet")
    data = datasets.load(tmp_path / "t.parquet", test_fraction=0)
    assert data.columns == ("a", "b=False", "b=True", "city=x", "city=y")
    np.testing.assert_array_equal(data.train[:, [0, 2, 3]], [[1, 1, 1], [np.nan, 0, 0], [3, 1, 1]])
    text = frame.with_columns(b=polars.Series([" TRUE", "false", "?"]))
    text.write_csv(tmp_path / "t.csv")
    again = datasets.load(tmp_path / "t.csv", test_fraction=0, kinds=data.table).train
    np.testing.assert_array_equal(again[:, 1:3], [[0, 1], [1, 0], [np.nan, np.nan]])
    assert datasets.load(tmp_path / "t.parquet", kinds={"b": "real", "city": None}).columns == ("a", "b")
    with pytest.raises(ValueError, match="t.parquet: Column 'city' must hold numbers"):
        datasets.load(tmp_path / "t.parquet", kinds="real")
    monkeypatch.setitem(sys.modules, "polars", None)
    for name in ("t.parquet", "t.csv"):
        with pytest.raises(ModuleNotFoundError, match=r'needs polars: pip install "keras-vae\[tables\]"'):
            datasets.load(tmp_path / name)


def test_what_cannot_be_read_is_named(images, tmp_path):
    cases = {
        "missing": "no file or folder .*missing, and no data set of that name; the named sets are digits, mnist",
        "words.txt": "Cannot tell what .*save a spreadsheet as CSV",
        "broken.npy": "cannot be read as NumPy data",
        "objects.npy": "cannot be read as NumPy data",
        "many.npz": r"holds the arrays \['a', 'b', 'c'\]; it must hold one array",
        "text.npy": "must be numbers; got an array of dtype",
        "flat.npy": "need an axis of examples",
        "one.npy": "gives 0 examples to train on and 1 to hold out",
        "short-idx3-ubyte": "cut short",
        "other-idx3-ubyte": "not an idx file",
        "cut-idx3-ubyte.gz": "not a whole gzip file",
        "empty": "holds neither images",
        "sizes": r"All images must have one size .*a.png is 4x3 grey and b.png is 3x4 grey",
        "fake": "cannot be read as an image",
        "deep": "its mode I;16 is not 8-bit",
        "zip.npz": "cannot be read as NumPy data",
        "labels.npz": "holds 12 examples, but labels of shape .3,",
        "twice.csv": "Two columns of .*twice.csv are called 'a'",
        "ragged.csv": "Line 3 of .* has 1 cells, but the first has 2",
        "empty.csv": "is empty",
        "bytes.csv": "cannot be read as a table of text in UTF-8",
        "broken.parquet": "cannot be read as a Parquet file",
        "shapes.npz": "must have one shape, without empty axes",
    }
    np.savez(tmp_path / "shapes.npz", train=images, test=images[:, :2])
    (tmp_path / "zip.npz").write_bytes((tmp_path / "shapes.npz").read_bytes()[:-30])
    np.savez(tmp_path / "labels.npz", x=images, y=np.arange(3))
    for name, text in (
        ("ragged", "a,b\n1,2\n3\n"),
        ("empty", ""),
        ("twice", "a,a\n1,2\n"),
    ):
        (tmp_path / f"{name}.csv").write_text(text)
    (tmp_path / "bytes.csv").write_bytes(b"a,b\n\xff,1\n")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    if not importlib.util.find_spec("polars"):
        del cases["broken.parquet"]
    (tmp_path / "words.txt").write_text("hello")
    (tmp_path / "broken.npy").write_bytes(b"nonsense")
    np.save(tmp_path / "objects.npy", np.array([{}, {}]), allow_pickle=True)
    np.savez(tmp_path / "many.npz", a=images, b=images, c=images)
    np.save(tmp_path / "text.npy", np.array([["a"], ["b"], ["c"]]))
    np.save(tmp_path / "flat.npy", np.arange(9.0))
    np.save(tmp_path / "one.npy", images[:1])
    write_idx(tmp_path / "whole", images, compress=False)
    (tmp_path / "short-idx3-ubyte").write_bytes((tmp_path / "whole").read_bytes()[:-5])
    (tmp_path / "other-idx3-ubyte").write_bytes(b"\x89PNG....")
    (tmp_path / "cut-idx3-ubyte.gz").write_bytes(gzip.compress((tmp_path / "whole").read_bytes())[:-20])
    for folder in ("empty", "sizes", "fake", "deep"):
        (tmp_path / folder).mkdir()
    Image.new("L", (3, 4)).save(tmp_path / "sizes" / "a.png")
    Image.new("L", (4, 3)).save(tmp_path / "sizes" / "b.png")
    Image.fromarray(np.arange(12, dtype="uint16").reshape(3, 4) * 4096).save(tmp_path / "deep" / "x.png")
    (tmp_path / "fake" / "x.png").write_bytes(b"not a picture")
    for name, words in cases.items():
        with pytest.raises(ValueError, match=words):
            datasets.load(tmp_path / name)


def test_a_failed_download_says_what_to_do(monkeypatch):
    import keras

    def load_data():
        raise Exception("URL fetch failure on https://example.org: None -- no network")

    monkeypatch.setattr(keras.datasets.mnist, "load_data", load_data)
    with pytest.raises(ValueError, match="could not download mnist .*or use the embedded digits"):
        datasets.load("mnist")


def test_a_delimiter_in_quotes_is_text_and_an_empty_line_an_empty_cell_of_one_column(tmp_path):
    quoted, single = tmp_path / "quoted.csv", tmp_path / "single.csv"
    quoted.write_text('"Name, first, last";"Age"\n"a, b";3\nc;4\n')
    assert _tables.read(quoted).cells.columns == ["Name, first, last", "Age"]
    single.write_text("a\n1\n\n3\n\n")
    assert _tables.read(single).cells["a"].to_list() == ["1", None, "3"]
