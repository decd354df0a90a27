"""The deliberate faults of faults.py can still be planted: their text is in the sources, and their tests exist."""

import pytest

import faults

pytestmark = pytest.mark.once


@pytest.mark.parametrize("name", faults.FAULTS)
def test_a_fault_has_one_place_and_tests(name):
    fault = faults.FAULTS[name]
    assert len(faults.places(fault)) == 1, f"python tests/faults.py --check {name!r}"
    assert faults.missing_tests(fault) == []
    assert fault.old != fault.new
