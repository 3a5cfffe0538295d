"""Imports without the collector."""

from __future__ import annotations

import gc

import pytest

from joulecast.estimator.sandbox.collection import without_collection


def test_what_was_made_counts_as_old_and_collection_goes_on() -> None:
    gc.unfreeze()  # what earlier tests have left
    gc.collect()
    with without_collection():
        assert not gc.isenabled()
        made = [[] for _ in range(50_000)]
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0
    assert len(gc.get_objects(generation=0)) < 10_000 < len(made) <= len(gc.get_objects(generation=2))


def test_an_error_does_not_stop_the_collector() -> None:
    with pytest.raises(ValueError, match="no module"), without_collection():
        raise ValueError("no module")
    assert gc.isenabled()


def test_what_the_caller_has_set_stays() -> None:
    gc.disable()
    try:
        with without_collection():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
    gc.freeze()
    try:
        with without_collection():
            assert not gc.isenabled()
        assert gc.isenabled()
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()
