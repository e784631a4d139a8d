"""Start and end of the process of a command, for `python -m experiments` and `python -m theory`.

- Ctrl-C and SIGTERM stop the process at any moment, even during an import or a compilation. It prints one line and
  exits immediately with status 128 plus the number of the signal. That is safe, since files are written atomically.
- If the reader of a pipe has closed it, the process ends silently with status 141.
- Characters that the terminal cannot encode are shown as `?`.
- If a package is missing, the message says how to run the command in the environment.

This module imports only the standard library, and its syntax is valid in older versions of Python.
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
_PATIENCE = 5.0  # seconds to wait for `callback` and the last output
_stopping: list[tuple[str, Callable[[], None]]] = []  # global, like the signals of a process


def run(name: str, main: Callable[[], int]) -> None:
    """Runs the command `python -m NAME`, and ends the process with the exit status that `main` returns.

    `main` imports what it needs in its body, so that signals are already handled during the imports.
    """
    listen(name)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # standard error already has a handler that never fails
    status = _status(name, main)
    if status == 0:
        sys.exit(0)
    # A normal exit would wait for other threads and, in a run of several processes, for processes that wait for this
    # one.
    with contextlib.suppress(OSError):
        _flush()
    os._exit(status)


def legible(arguments: Sequence[str]) -> None:
    """Checks that no argument is empty, such as that of an unset shell variable, and that all are valid text.

    Raises:
        ValueError: an argument is empty or not text; the message names its flag.

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
def stopping(words: str, callback: Callable[[], None] = lambda: None) -> Iterator[None]:
    """A context in which a signal makes the process call `callback` and print `words` before it ends.

    `callback` is called in its own thread while all others continue. The process waits for it for a few seconds only.
    """
    _stopping.append((words, callback))
    try:
        yield
    finally:
        _stopping.pop()


def listen(name: str) -> None:
    """Starts a thread that sleeps until there is a signal, and then ends the process.

    Python calls signal handlers between two instructions of the main thread, so only after a compilation. An exception
    that a handler raises can also be lost in a callback. A signal that is ignored from the start, as under nohup, stays
    ignored.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    listen_again()
    import threading  # only now, so that signals are handled during this import

    threading.Thread(target=_wait, args=(name, reading), daemon=True).start()


def listen_again() -> None:
    """Reinstalls the signal handlers after a library has replaced them; ignored signals stay ignored."""
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
    words, callback = _stopping[-1] if _stopping else ("", lambda: None)
    last = threading.Thread(target=_last, args=(callback,), daemon=True)
    last.start()
    last.join(_PATIENCE)
    erase = "\r\x1b[2K\x1b[?25h" if os.isatty(2) else ""  # a progress bar hides the cursor
    line = f"{erase}{name}: {'; '.join(filter(None, [_WORDS[signal.Signals(number)], words]))}\n"
    with contextlib.suppress(OSError, ValueError):
        if select.select([], [2], [], 0)[1]:
            os.write(2, line.encode(getattr(sys.stderr, "encoding", None) or "utf-8", "backslashreplace"))
    os._exit(128 + number)


def _last(callback: Callable[[], None]) -> None:
    with contextlib.suppress(BaseException):
        callback()
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
    except OSError as error:  # of the last flush: `main` reports those of files
        return _say(f"{name}: standard output: {error.strerror or error}", 2)
    except KeyboardInterrupt:
        return _say(f"{name}: interrupted", 130)
    except ImportError as error:
        if (error.name or "").partition(".")[0] in ("gsjax", "theory", "experiments"):
            return _failed()
        advice = f"run it as .venv/bin/python -m {name}; make verify sets .venv up"
        return _say(f"{name}: {str(error).partition(chr(10))[0]} ({sys.executable}); {advice}", 2)
    except Exception:  # noqa: BLE001  a bug, reported with its traceback
        return _failed()
    return status


def _asked(name: str, stop: SystemExit) -> int:
    """The status of `sys.exit`, which rich also calls when a pipe is closed."""
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
    import traceback  # rarely needed

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
