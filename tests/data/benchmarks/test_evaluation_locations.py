"""Data sets of the field as images to evaluate on: what the leak guard must keep out of training."""

from __future__ import annotations

import shutil

import pytest

import rated_layouts
from cskd_hf.data.evaluation_images import open_evaluation
from cskd_hf.data.fingerprints import take_fingerprints
from cskd_hf.data.leak_guard import LeakGuard
from cskd_hf.data.locations import open_source
from cskd_hf.data.ratings import RatingsError
from cskd_hf.data.ratings.convert import convert_ratings


@pytest.fixture
def ava(tmp_path):
    return rated_layouts.write_ava(tmp_path / "ava")


def keys(location):
    source = open_evaluation(location)
    return {source.key(row) for row in range(len(source))}


def test_all_but_the_training_images_or_the_named_splits(ava):
    test = {str(number) for number in range(1025, 1033)}
    assert keys(f"ava:{ava}?validation_share=0") == test
    assert keys(f"ava:{ava}#test") == test
    assert keys(f"ava:{ava}?validation_share=0.5") > test
    assert len(keys(f"ava:{ava}?validation_share=0#train")) == 24
    with pytest.raises(RatingsError, match="has no split"):
        keys(f"ava:{ava}#tset")


def test_a_leak_is_found_by_its_picture_and_without_it_by_its_name(ava, tmp_path):
    unlabeled = tmp_path / "unlabeled"
    unlabeled.mkdir()
    shutil.copy(ava / "images" / "1025.jpg", unlabeled / "holiday.jpg")
    shutil.copy(ava / "images" / "1001.jpg", unlabeled / "1026.jpg")  # another picture under the name of a test image
    prints = take_fingerprints(open_source(unlabeled))

    def found():
        guard = LeakGuard.of([open_evaluation(f"ava:{ava}#test")])
        return {(match.key, match.original, match.kind) for match in guard.find(prints).matches.values()}

    assert ("holiday.jpg", "1025", "bytes") in found()
    shutil.rmtree(ava / "images")
    assert found() == {("1026.jpg", "1026", "key")}


def test_a_converted_set(ava, tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    output = convert_ratings(f"ava:{ava}", tmp_path / "converted")
    assert keys(f"{output}#test") == {str(number) for number in range(1025, 1033)}
