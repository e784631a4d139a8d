"""Progress: silent for short work, plain lines in a log."""

from __future__ import annotations

from gsjax import progress


def test_progress_is_silent_when_there_is_nothing_to_wait_for(capsys):
    assert list(progress.track(range(3), "steps")) == [0, 1, 2]
    assert capsys.readouterr().err == ""


def test_progress_in_plain_lines(capsys, monkeypatch):
    monkeypatch.setattr(progress, "_PATIENCE", 0.0)
    monkeypatch.setattr(progress, "_INTERVAL", 0.0)
    assert list(progress.track("abc", "letters")) == ["a", "b", "c"]
    assert capsys.readouterr().err == "letters: 1 of 3\nletters: 2 of 3\n"
