"""The ledger: whole batches, what is left, and what has changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from cskd_hf.scoring.errors import ScoringError
from cskd_hf.scoring.ledger import Ledger
from cskd_hf.scoring.scan import FileState, Scored

STATE = FileState(10, 20, None)


def scored(path: str, score: float | None, state: FileState | None = STATE) -> Scored:
    return Scored(
        path, state, {"error": "no image"} if score is None else {"score": score, "distribution": {"1": 1.0}}
    )


def test_a_batch_is_written_whole_or_not_at_all(tmp_path: Path):
    def breaking():
        yield scored("b", 2.0)
        raise RuntimeError("in between")

    with Ledger(tmp_path / "ledger") as ledger:
        ledger.list_files("abc")
        ledger.write([scored("a", 1.0)])
        with pytest.raises(RuntimeError):
            ledger.write(breaking())
    with Ledger(tmp_path / "ledger") as ledger:
        assert list(ledger.results()) == [{"path": "a", "score": 1.0}]


def test_batches_are_those_of_an_unbroken_run():
    """Of ten files in batches of three: what is left of each."""
    ledger = Ledger(None)
    assert ledger.list_files("abcdefghij") == 10
    assert list(ledger.to_do(3)) == [["a", "b", "c"], ["d", "e", "f"], ["g", "h", "i"], ["j"]]
    ledger.write([scored(path, 1.0) for path in "abceg"])
    assert list(ledger.to_do(3)) == [["d", "f"], ["h", "i"], ["j"]] and ledger.left() == 5


def test_order_of_the_results():
    ledger = Ledger(None)
    ledger.list_files("dabc")
    ledger.write([scored("a", 1.0), scored("b", None), scored("c", 3.0), scored("d", 1.0)])
    ledger.write([scored("gone", 9.0)])  # of an earlier run, and not asked for in this one
    order = {
        "listed": ledger.results(),
        "best": ledger.results(best_first=True),
        "top": ledger.results(top=2, unreadable=False),
        "unreadable": ledger.results(unreadable=True),
    }
    assert {name: "".join(result["path"] for result in results) for name, results in order.items()} == {
        "listed": "dabc", "best": "cdab", "top": "cd", "unreadable": "b",
    }  # fmt: skip
    assert ledger.counts() == (3, 1)


@pytest.mark.parametrize(
    ("then", "now", "kept"),
    [
        ((10, 20, None), (10, 20, None), True),
        ((10, 20, None), (11, 20, None), False),
        ((10, 20, None), (10, 21, None), False),
        ((10, 20, "x"), (11, 21, "x"), True),
        ((10, 20, "x"), (10, 20, "y"), False),
        ((10, 20, None), (10, 20, "x"), False),
        ((10, 20, None), None, False),
    ],
)
def test_what_has_changed(then: tuple, now: tuple | None, kept: bool):
    ledger = Ledger(None)
    ledger.list_files("ab")
    ledger.write([scored("a", 1.0, FileState(*then)), scored("b", None)])
    assert ledger.forget_changed(lambda path: now and FileState(*now)) == kept
    assert list(ledger.to_do(1)) == ([] if kept else [["a"]]) + [["b"]]


def test_parts_of_other_settings_are_refused(tmp_path: Path):
    for name, weights in (("same", "x"), ("other", "y")):
        with Ledger(tmp_path / name) as part:
            part.accept({"weights": weights})
            part.write([scored(name, 1.0)])
    with Ledger(tmp_path / "ledger") as ledger:
        ledger.accept({"weights": "x"})
        ledger.list_files(["same", "other"])
        ledger.absorb(tmp_path / "same")
        assert ledger.counts() == (1, 0) and not (tmp_path / "same").exists()
        with pytest.raises(ScoringError, match="another model or setting"):
            ledger.absorb(tmp_path / "other")
        assert (tmp_path / "other").exists()


def test_an_error_of_the_disk_is_no_error_of_sqlite(tmp_path: Path):
    with Ledger(tmp_path / "ledger") as ledger:
        ledger.list_files("ab")
        ledger.write([scored("a", 1.0)])
        pages = ledger._base.execute("PRAGMA page_count").fetchone()[0]
        ledger._base.execute(f"PRAGMA max_page_count={pages}")
        with pytest.raises(OSError, match=r"cannot write to '.*ledger': .*full"):
            ledger.list_files(f"{number:0900}" for number in range(100))
        assert list(ledger.results()) == [{"path": "a", "score": 1.0}]


def test_a_ledger_without_results_is_not_left_behind(tmp_path: Path):
    with Ledger(tmp_path / "ledger") as ledger:
        ledger.list_files("a")
    assert list(tmp_path.iterdir()) == []


def test_an_error_while_results_are_read_is_the_one_that_is_told(tmp_path: Path):
    with pytest.raises(OSError, match="full"), Ledger(tmp_path / "scores.ledger") as ledger:
        ledger.list_files(["a", "b", "c"])
        ledger.write([scored(name, 1.0) for name in "abc"])
        for _ in ledger.results():
            raise OSError(28, "the disk is full")
    with Ledger(tmp_path / "scores.ledger") as ledger:
        assert len(list(ledger.results())) == 3
