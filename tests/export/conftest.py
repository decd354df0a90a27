"""For tests that ask for an export as it is outside the tests, where no process is warm."""

import pytest

from keras_vae_export import converters

_START_PROCESS = converters.start_process


@pytest.fixture
def fresh_converter(monkeypatch):
    """Each conversion in a process of its own, as in an export outside the tests."""
    monkeypatch.setattr(converters, "start_process", _START_PROCESS)
