"""Arrays that stay in their files train as arrays in memory do."""

import keras
import numpy as np
import pytest

from keras_vae import _row_batches

pytestmark = pytest.mark.once


@pytest.fixture
def mapped(tmp_path, digits, monkeypatch):
    """The digits as a file, which counts as large."""
    monkeypatch.setattr(_row_batches, "MIN_MAPPED_BYTES", 1000)
    np.save(tmp_path / "digits.npy", digits.astype("float64"))
    return np.load(tmp_path / "digits.npy", mmap_mode="r")


def test_the_history_is_that_of_the_array(make_vae, digits, mapped):
    histories = []
    for data in (digits, mapped):
        keras.utils.set_random_seed(1)
        vae = make_vae()
        fit = {"batch_size": 50, "epochs": 2, "shuffle": False, "verbose": 0, "validation_data": (data[:60],)}
        histories.append(vae.fit(data, sample_weight=np.linspace(0, 2, 256), **fit).history)
        histories[-1]["evaluated"] = vae.evaluate(data, batch_size=50, verbose=0)
    assert histories[0].keys() == histories[1].keys()
    for name, values in histories[0].items():
        np.testing.assert_allclose(histories[1][name], values, rtol=1e-5)


def test_every_example_is_seen_once_an_epoch_in_a_new_order(mapped):
    batches = _row_batches.RowBatches((mapped[7:], None, np.arange(249)), 100, shuffle=True)
    orders = []
    for _ in range(2):
        parts = [batches[i] for i in range(len(batches))]
        assert [len(part[0]) for part in parts] == [100, 100, 49]
        orders.append(np.concatenate([part[2] for part in parts]))
        assert sorted(orders[-1]) == list(range(249))
        for x, y, rows in parts:
            assert x.dtype == "float32"
            np.testing.assert_array_equal(y, x)
            np.testing.assert_array_equal(x, mapped[7:][rows])
        batches.on_epoch_end()
    assert (orders[0] != orders[1]).any()


def test_the_batches_do_not_keep_the_file(mapped):
    (x,) = _row_batches.RowBatches((mapped, None, None), 10, shuffle=False)[0]
    assert not isinstance(x, np.memmap)
    assert x.base is None or not isinstance(x.base, np.memmap)


def test_a_split_says_what_to_pass_instead(make_vae, mapped):
    with pytest.raises(ValueError, match=r"validation_data=\(x\[-10_000:\],\)"):
        make_vae().fit(mapped, validation_split=0.1, verbose=0)


def test_small_files_are_arrays(make_vae, mapped, monkeypatch):
    monkeypatch.setattr(_row_batches, "MIN_MAPPED_BYTES", mapped.nbytes)
    arguments = {"x": mapped}
    _row_batches.replace(arguments, shuffle=True)
    assert arguments["x"] is mapped


def test_what_the_user_wrote_into_a_map_is_what_is_read(tmp_path, digits):
    np.save(tmp_path / "x.npy", digits)
    private = np.load(tmp_path / "x.npy", mmap_mode="c")
    private[:] = 0.5
    held = np.load(tmp_path / "x.npy", mmap_mode="r")
    (tmp_path / "x.npy").unlink()
    for expected, array in ((np.full_like(digits, 0.5), private), (digits, held)):
        batches = _row_batches.RowBatches((array, None, None), 100, shuffle=False)
        for _ in range(2):
            np.testing.assert_array_equal(np.concatenate([batches[i][0] for i in range(3)]), expected)


def test_weights_may_be_a_list(mapped):
    batches = _row_batches.RowBatches((mapped, None, list(range(256))), 100, shuffle=False)
    np.testing.assert_array_equal(batches[1][2], np.arange(100, 200))
