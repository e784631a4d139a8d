"""How the process of a command begins and ends, whatever the command is about; that of `python -m theory`, too.

Ctrl-C and SIGTERM stop it at any moment, in the middle of an import or a compilation: it says so in one line and leaves
at once with 128 plus the number of the signal, as files are written atomically. A pipe that nobody reads any more ends
it without a word, with 141. A terminal that lacks a character shows `?` in its place. Outside of the environment it
says how to run it.

Only the standard library is imported here, in code that older Pythons can read.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence

OLDEST = (3, 11)

_WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
_PATIENCE = 5.0  # seconds that last words may take
_stopping: list[tuple[str, Callable[[], None]]] = []  # of the process as a whole, like its signals


def run(name: str, main: Callable[[], int]) -> None:
    """Runs the command `python -m NAME`, and ends the process with the exit status that `main` returns.

    What `main` needs is imported in its body: signals are taken care of before that.
    """
    listen(name)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # that of standard error never fails
    status = _status(name, main)
    if status == 0:
        sys.exit(0)
    # An ordinary exit waits for other threads, and in a run of several processes for the others, which wait for this.
    with contextlib.suppress(OSError):
        _flush()
    os._exit(status)


def legible(arguments: Sequence[str]) -> None:
    """Checks that no argument is empty, as that of an unset variable is, and that all are text.

    Raises:
        ValueError: one of them; the flag that it belongs to is named.

    >>> legible(["--out", ""])
    Traceback (most recent call last):
    ValueError: --out: expected a value, got ''
    """
    name = "arguments"
    for argument in arguments:
        if argument.startswith("--"):
            name = argument.partition("=")[0]
        if argument in ("", f"{name}="):
            raise ValueError(f"{name}: expected a value, got ''")
        try:
            argument.encode()
        except UnicodeEncodeError:
            raise ValueError(f"{name}: expected text, got {argument!r}") from None


@contextlib.contextmanager
def stopping(words: str, then: Callable[[], None] = lambda: None) -> Iterator[None]:
    """For as long as this lasts, a signal makes the command do `then` and say `words` before it ends.

    `then` is called in a thread of its own while all others go on, and is not waited for if it takes long.
    """
    _stopping.append((words, then))
    try:
        yield
    finally:
        _stopping.pop()


def listen(name: str) -> None:
    """Ends the process at a signal, from a thread that sleeps until there is one.

    Python calls handlers between two instructions of the main thread, hence only after a compilation; and an exception
    that one raises is lost in a callback. A signal that is ignored from the start, as under nohup, stays so.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    listen_again()
    import threading  # what is not needed for this comes after it

    threading.Thread(target=_wait, args=(name, reading), daemon=True).start()


def listen_again() -> None:
    """Takes signals back that a library has taken, if they were listened to."""
    for number in _WORDS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda *_: None)


def _wait(name: str, reading: int) -> None:
    import select
    import threading

    while True:
        number = os.read(reading, 1)[0]
        if number in _WORDS:
            break
    words, then = _stopping[-1] if _stopping else ("", lambda: None)
    last = threading.Thread(target=_last, args=(then,), daemon=True)
    last.start()
    last.join(_PATIENCE)
    erase = "\r\x1b[2K\x1b[?25h" if os.isatty(2) else ""  # a bar of progress hides the cursor
    line = f"{erase}{name}: {'; '.join(filter(None, [_WORDS[signal.Signals(number)], words]))}\n"
    with contextlib.suppress(OSError, ValueError):
        if select.select([], [2], [], 0)[1]:
            os.write(2, line.encode(getattr(sys.stderr, "encoding", None) or "utf-8", "backslashreplace"))
    os._exit(128 + number)


def _last(then: Callable[[], None]) -> None:
    with contextlib.suppress(BaseException):
        then()
    with contextlib.suppress(OSError):
        _flush()


def _status(name: str, main: Callable[[], int]) -> int:
    try:
        if sys.version_info < OLDEST:
            version = ".".join(map(str, sys.version_info[:3]))
            raise ImportError(f"it needs Python {'.'.join(map(str, OLDEST))} or newer, and this is {version}")
        status = main()
        _flush()
    except SystemExit as stop:
        status = _asked(name, stop)
    except BrokenPipeError:
        return 128 + 13  # SIGPIPE
    except OSError as error:  # of the last flush: `main` has told those of files
        return _say(f"{name}: standard output: {error.strerror or error}", 2)
    except KeyboardInterrupt:
        return _say(f"{name}: interrupted", 130)
    except ImportError as error:
        if (error.name or "").partition(".")[0] in ("gsjax", "theory", "experiments"):
            return _failed()
        how = f"run it as .venv/bin/python -m {name}; make verify sets .venv up"
        return _say(f"{name}: {str(error).partition(chr(10))[0]} ({sys.executable}); {how}", 2)
    except Exception:  # noqa: BLE001  an error of ours, told as Python would tell it
        return _failed()
    return status


def _asked(name: str, stop: SystemExit) -> int:
    """The status of `sys.exit`, by which rich ends, too, where a pipe is closed."""
    if isinstance(stop.__context__, BrokenPipeError):
        return 128 + 13
    try:
        _flush()
    except BrokenPipeError:
        return 128 + 13
    except OSError as error:
        return _say(f"{name}: standard output: {error.strerror or error}", 2)
    if stop.code is None or isinstance(stop.code, int):
        return stop.code or 0
    return _say(str(stop.code), 1)


def _failed() -> int:
    import traceback  # never needed otherwise

    with contextlib.suppress(OSError):
        traceback.print_exc()
    return 1


def _say(line: str, status: int) -> int:
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr, flush=True)
    return status


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
