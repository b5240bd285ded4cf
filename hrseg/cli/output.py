"""Standard output and error that survive a closed pipe or terminal: `hrseg models | head`."""

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


class RobustStream:
    """A text stream that discards its output once its reader is gone.

    After a closed pipe, it requests a stop as by SIGPIPE; a training saves first.

    Args:
        stream: The wrapped stream.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._owner = os.getpid()

    def write(self, text: str) -> int:
        """Writes, or discards, the text."""
        try:
            return self._stream.write(text)
        except OSError as error:
            self._lose(error)
            return len(text)

    def flush(self) -> None:
        """Flushes the stream, or discards its buffer."""
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
        with suppress(OSError, ValueError):  # discards what is left in the buffer, too
            os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)
        if error.errno == errno.EPIPE and os.getpid() == self._owner:
            signals.receive(signal.SIGPIPE)


@contextmanager
def robust_output() -> Iterator[None]:
    """Makes standard output and standard error a `RobustStream` in the block.

    Characters that they cannot encode, as in undecodable file names, are escaped. Closed streams (`>&-`) discard all.
    """
    before = sys.stdout, sys.stderr
    for stream in before:
        if isinstance(stream, TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")
    with ExitStack() as opened:
        sys.stdout, sys.stderr = (
            RobustStream(stream or opened.enter_context(open(os.devnull, "w"))) for stream in before
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
    """Prints on rank 0."""
    if launch.is_first_process():
        print(text, flush=True)
