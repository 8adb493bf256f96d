"""The module for `evaluate` says what the plain functions say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cskd_hf.evaluation.metrics import iaa_metrics, iaa_module_path

evaluate = pytest.importorskip("evaluate")


@pytest.fixture
def load(tmp_path, monkeypatch):
    """`evaluate.load` of the module, with its caches in a temporary folder and no way to the network."""
    monkeypatch.setattr(evaluate.config, "HF_EVALUATE_OFFLINE", True)

    def load(*args, **kwargs):
        return evaluate.load(iaa_module_path(), *args, cache_dir=str(tmp_path), **kwargs)

    return load


def test_folder_is_complete():
    folder = Path(iaa_module_path())
    assert {"README.md", "app.py", "iaa.py", "requirements.txt"} <= {path.name for path in folder.iterdir()}


def test_scores_agree_with_the_plain_functions(load):
    rng = np.random.default_rng(0)
    pred, true = rng.normal(5, 1, 30), rng.normal(5, 1, 30)
    assert load().compute(predictions=pred, references=true, threshold=5.0) == iaa_metrics(pred, true, threshold=5.0)
    assert "accuracy" not in load("scores").compute(predictions=pred, references=true)


def test_batches_add_up_to_the_whole(load):
    pred, true = np.arange(12.0) % 5, np.arange(12.0) % 7
    module = load()
    for start in (0, 4, 8):
        module.add_batch(predictions=pred[start : start + 4], references=true[start : start + 4])
    assert module.compute() == iaa_metrics(pred, true)


def test_distributions_agree_with_the_plain_functions(load):
    rng = np.random.default_rng(0)
    pred, true, values = rng.dirichlet(np.ones(4), 9), rng.dirichlet(np.ones(4), 9), [1, 1.5, 2, 4]
    result = load("distributions").compute(predictions=pred, references=true, score_values=values, threshold=2)
    assert result == pytest.approx(iaa_metrics(pred @ values, true @ values, pred, true, 2), rel=1e-12)
    assert {"emd1", "emd2"} <= set(result)


def test_unusable_settings(load):
    with pytest.raises(ValueError, match="allowed: 'scores' or 'distributions'"):
        load("histograms")
    rows = [[0.5, 0.5], [1.0, 0.0]]
    with pytest.raises(ValueError, match="needs `score_values`"):
        load("distributions").compute(predictions=rows, references=rows)
    with pytest.raises(ValueError, match="`predictions` has 2 bins at index 0; allowed: 3"):
        load("distributions").compute(predictions=rows, references=rows, score_values=[1, 2, 3])
