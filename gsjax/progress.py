"""Progress of long loops: a bar on a terminal, plain lines elsewhere, and nothing for short loops."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

__all__ = ["stop", "track"]

T = TypeVar("T")

_PATIENCE = 3.0  # seconds before anything is shown
_INTERVAL = 30.0  # seconds between plain lines
_shown: list[Progress] = []


class _Console(Console):
    """Standard error, for progress; if its pipe breaks, output stops and the loop continues."""

    def on_broken_pipe(self) -> None:
        self.quiet = True


def stop() -> None:
    """Removes all bars and restores the terminal."""
    for progress in reversed(_shown):
        progress.stop()


def track(items: Sequence[T], what: str) -> Iterator[T]:
    """Yields the items; after a few seconds, standard error shows how many are done, with `what` as the label.

    >>> list(track("abc", "letters"))
    ['a', 'b', 'c']
    """
    console = _Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        _shown.append(progress)
        try:
            task = progress.add_task(what, total=len(items), visible=False)
            due = time.monotonic() + _PATIENCE
            for done, item in enumerate(items, 1):
                yield item
                late = time.monotonic() >= due
                progress.update(task, completed=done, visible=late or None)
                if late and not console.is_terminal and done < len(items):
                    console.print(f"{what}: {done} of {len(items)}")
                    due = time.monotonic() + _INTERVAL
        finally:
            _shown.remove(progress)
