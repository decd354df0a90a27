"""Schedules are pure functions of the step: their values, their ends, their refusals."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_vae import schedules

pytestmark = pytest.mark.once


def values(schedule, steps):
    return [float(schedule(ops.convert_to_tensor(step, "int32"))) for step in steps]


def test_constant():
    np.testing.assert_allclose(values(schedules.Constant(2.5), [0, 10**6]), [2.5, 2.5])
    assert values(schedules.Constant(), [0]) == [1.0]


def test_linear_rises_and_stays():
    np.testing.assert_allclose(values(schedules.Linear(10), [0, 5, 10, 1000]), [0.0, 0.5, 1.0, 1.0])
    np.testing.assert_allclose(values(schedules.Linear(4, start=2.0, end=1.0), [0, 1, 4, 5]), [2.0, 1.75, 1.0, 1.0])


def test_cyclical_ramps_holds_and_repeats():
    schedule = schedules.Cyclical(period=10, ramp=0.5)
    np.testing.assert_allclose(values(schedule, [0, 2, 5, 9, 10, 12]), [0.0, 0.4, 1.0, 1.0, 0.0, 0.4])
    schedule = schedules.Cyclical(10, ramp=1.0, cycles=2, start=1.0, end=4.0)
    np.testing.assert_allclose(values(schedule, [0, 5, 9, 15, 19, 20, 25]), [1.0, 2.5, 3.7, 2.5, 3.7, 4.0, 4.0])


@pytest.mark.parametrize("schedule", [schedules.Constant(), schedules.Linear(7), schedules.Cyclical(9)])
def test_values_are_float32_whatever_keras_computes_in(schedule):
    keras.config.set_floatx("float64")
    try:
        value = type(schedule).from_config(schedule.get_config())(ops.convert_to_tensor(3, "int32"))
        assert keras.backend.standardize_dtype(value.dtype) == "float32"
    finally:
        keras.config.set_floatx("float32")


def test_cyclical_is_exact_far_into_a_run():
    """In float32 the step itself would have lost its last digits by 2**24."""
    step = 2**28
    expected = (step % 1000) / 500
    np.testing.assert_allclose(values(schedules.Cyclical(1000), [step]), [min(expected, 1.0)], rtol=1e-6)


@pytest.mark.parametrize(
    "schedule", [schedules.Constant(0.5), schedules.Linear(7, 0.1, 2.0), schedules.Cyclical(9, 0.25, 3, 0.0, 2.0)]
)
def test_config_round_trip(schedule):
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(schedule))
    assert repr(copy) == repr(schedule)
    np.testing.assert_allclose(values(copy, range(30)), values(schedule, range(30)))


def test_get_takes_numbers_and_refuses_nonsense():
    assert schedules.get(3).value == 3.0
    for bad in (-1.0, float("nan"), "linear", True, None):
        with pytest.raises(ValueError, match="^value must be a finite number"):
            schedules.get(bad)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: schedules.Linear(0), "^steps, in training batches, must be a whole number of at least 1"),
        (lambda: schedules.Linear(1, start=-1.0), "^start must be a finite number"),
        (lambda: schedules.Linear(1, end=-1.0), "^end must be a finite number"),
        (lambda: schedules.Cyclical(0), "^period must be a whole number"),
        (lambda: schedules.Cyclical(1, cycles=0), "^cycles must be a whole number"),
        (lambda: schedules.Cyclical(1, start=-1.0), "^start must be a finite number"),
        (lambda: schedules.Cyclical(1, end=-1.0), "^end must be a finite number"),
        (lambda: schedules.Cyclical(10, ramp=0.0), "^ramp is a fraction"),
        (lambda: schedules.Cyclical(10, ramp=1.01), "^ramp is a fraction"),
    ],
)
def test_an_argument_out_of_its_range_is_named(make, words):
    with pytest.raises(ValueError, match=words):
        make()
