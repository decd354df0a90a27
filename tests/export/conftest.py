"""Conversions are made by a warm process, except in tests that ask for `fresh_converter`."""

import pytest

import warm_converter
from keras_vae_export import converters

_START_PROCESS = converters.start_process


@pytest.fixture(scope="session", autouse=True)
def _warm_converter():
    with warm_converter.use():
        yield


@pytest.fixture
def fresh_converter(monkeypatch):
    """Each conversion in a process of its own, as in an export outside the tests."""
    monkeypatch.setattr(converters, "start_process", _START_PROCESS)
