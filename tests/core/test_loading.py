"""Modules that a daemon loads for good are not looked through for garbage, then or later."""

import gc
import importlib

import pytest

from edgehold.core import loading


def test_what_is_loaded_is_set_aside_and_collecting_goes_on() -> None:
    before = gc.get_freeze_count()
    try:
        with loading.for_good():
            assert not gc.isenabled()
        assert gc.isenabled()
        assert gc.get_freeze_count() > before
    finally:
        gc.unfreeze()


def test_collecting_goes_on_after_a_module_that_cannot_be_loaded() -> None:
    try:
        with pytest.raises(ModuleNotFoundError), loading.for_good():
            importlib.import_module("edgehold.core.no_such_module")
        assert gc.isenabled()
    finally:
        gc.unfreeze()
