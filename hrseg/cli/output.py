"""Output whose reader goes away: `hrseg models | head`, or a terminal that is closed."""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from io import TextIOWrapper
from typing import Any, TextIO

from hrseg.run import launch
from hrseg.utils import signals

_GONE = {errno.EPIPE, errno.EIO}  # a pipe's reader; a terminal


class LastingStream:
    """A text stream that drops what cannot be written since nobody reads it any more.

    Where it is a pipe, the process is asked to end as if by SIGPIPE, as other programs do: a training saves first.

    Args:
        stream: The stream; everything else is its own.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._owner = os.getpid()

    def write(self, text: str) -> int:
        """Writes."""
        try:
            return self._stream.write(text)
        except OSError as error:
            self._lose(error)
            return len(text)

    def flush(self) -> None:
        """Flushes."""
        try:
            self._stream.flush()
        except OSError as error:
            self._lose(error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _lose(self, error: OSError) -> None:
        if error.errno not in _GONE:
            raise error
        nowhere = os.open(os.devnull, os.O_WRONLY)
        with suppress(OSError, ValueError):  # what is still in its buffer goes nowhere, too
            os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)
        if error.errno == errno.EPIPE and os.getpid() == self._owner:
            signals.receive(signal.SIGPIPE)


@contextmanager
def lasting_output() -> Iterator[None]:
    """Lets the standard output and the standard error outlast their readers while the block runs.

    What they cannot encode, such as a file's name that is no text, is spelled out. Closed ones (`>&-`) lead nowhere.
    """
    before = sys.stdout, sys.stderr
    for stream in before:
        if isinstance(stream, TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")
    with ExitStack() as opened:
        sys.stdout, sys.stderr = (
            LastingStream(stream or opened.enter_context(open(os.devnull, "w"))) for stream in before
        )
        try:
            yield
        finally:
            try:
                for stream in (sys.stdout, sys.stderr):
                    stream.flush()
            finally:
                sys.stdout, sys.stderr = before


def say(text: str) -> None:
    """Prints in rank 0."""
    if launch.is_first_process():
        print(text, flush=True)
