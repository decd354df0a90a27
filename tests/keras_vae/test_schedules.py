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


def test_linear_rises_and_stays():
    np.testing.assert_allclose(values(schedules.Linear(10), [0, 5, 10, 1000]), [0.0, 0.5, 1.0, 1.0])
    np.testing.assert_allclose(values(schedules.Linear(4, start=2.0, end=1.0), [0, 1, 4, 5]), [2.0, 1.75, 1.0, 1.0])


def test_cyclical_ramps_holds_and_repeats():
    schedule = schedules.Cyclical(period=10, ramp=0.5)
    np.testing.assert_allclose(values(schedule, [0, 2, 5, 9, 10, 12]), [0.0, 0.4, 1.0, 1.0, 0.0, 0.4])
    np.testing.assert_allclose(values(schedules.Cyclical(10, cycles=1, end=4.0), [0, 10, 12]), [0.0, 4.0, 4.0])


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
        with pytest.raises(ValueError, match="finite number"):
            schedules.get(bad)
    with pytest.raises(ValueError, match="steps, in training batches, must be a whole number of at least 1"):
        schedules.Linear(0)
    with pytest.raises(ValueError, match="ramp is a fraction"):
        schedules.Cyclical(10, ramp=0.0)
