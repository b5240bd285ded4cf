"""Predictors side by side, each in a process of its own: their speed, memory and label maps."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hrseg.errors import ConfigError, HrsegError
from hrseg.inference.benchmark import failure_of_error, failure_of_exit, limit_memory
from hrseg.inference.predictor import Predictor
from hrseg.utils.memory import peak_memory


@dataclass(frozen=True)
class Contender:
    """A predictor to be measured, under the protocol "whole".

    Args:
        path: What `Predictor.from_file` takes.
        precision: As for `Predictor`; "fp32" for an exported file, which has its own.
        device: As for `Predictor`.
        trust: As for `Predictor.from_file`.
    """

    path: str
    precision: str = "fp32"
    device: str | None = None
    trust: bool = False

    def open(self) -> Predictor:
        """Builds the predictor; see `Predictor.from_file`."""
        return Predictor.from_file(self.path, self.device, "whole", self.trust, self.precision)


class MeasurementError(Exception):
    """There is no measurement; the message says why."""


class PredictorProcess:
    """A predictor in a process of its own, so that its memory is its own and running out of it ends no other.

    Args:
        contender: What to measure.
        images: Files of images (H, W, 3) uint8 RGB, as `np.save` writes them.
    """

    def __init__(self, contender: Contender, images: Sequence[Path]) -> None:
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  # closed by __exit__
        code = "from hrseg.inference.comparison import serve; serve()"
        given = json.dumps([asdict(contender), [str(path) for path in images]])
        self._process = subprocess.Popen(
            [sys.executable, "-c", code, given],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )

    def __enter__(self) -> PredictorProcess:
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def open(self) -> dict[str, Any]:
        """Waits until the predictor is built.

        Returns:
            "runs_on", "threads" of the CPU.

        Raises:
            ConfigError: The file cannot be used; the message is that of the error.
            MeasurementError: PyTorch or the runtime cannot run it.
        """
        answer: dict[str, Any] = self._read()
        return answer

    def predict(self, folder: Path) -> None:
        """Writes the label maps (H, W) uint8 of all images as 0.npy, 1.npy, ... into a folder.

        Raises:
            MeasurementError: The predictor cannot run, such as for want of memory, or does not take an image.
        """
        self._ask("predict", str(folder))

    def time(self, seconds: float) -> list[float]:
        """Times the first image, from its array to the label map, at least once, for so many seconds.

        Returns:
            Seconds of each run.

        Raises:
            MeasurementError: As for `predict`.
        """
        answer: list[float] = self._ask("time", seconds)
        return answer

    def peak_gib(self) -> float:
        """Peak memory so far: allocated by PyTorch on a GPU, else resident memory of the process."""
        answer: float = self._ask("peak")
        return answer

    def _ask(self, *question: object) -> Any:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # the process ended: the reason is read below
            print(json.dumps(question), file=self._process.stdin, flush=True)
        return self._read()

    def _read(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._errors.seek(0)
            raise MeasurementError(failure_of_exit(self._process.wait(), self._errors.read()))
        answer = json.loads(line)
        if "error" in answer:
            raise ConfigError(answer["error"])
        if "failure" in answer:
            raise MeasurementError(answer["failure"])
        return answer["result"]


def serve() -> None:
    """Entry point of the process: opens the predictor, then answers the questions of a `PredictorProcess`."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what runtimes print is no answer
    setting, images = json.loads(sys.argv[1])
    limit_memory()
    torch.set_flush_denormal(True)
    for answer in _answers(Contender(**setting), [Path(path) for path in images]):
        print(json.dumps(answer), file=answers, flush=True)


def _answers(contender: Contender, images: Sequence[Path]) -> Iterator[dict[str, Any]]:
    try:
        predictor = contender.open()
    except HrsegError as error:
        yield {"error": str(error)}
        return
    except (MemoryError, RuntimeError) as error:
        yield {"failure": failure_of_error(error)}
        return
    yield {"result": {"runs_on": predictor.runs_on, "threads": torch.get_num_threads()}}
    for line in sys.stdin:
        try:
            yield {"result": _answer(predictor, images, *json.loads(line))}
        except HrsegError as error:
            yield {"failure": str(error)}
        except (MemoryError, RuntimeError) as error:
            yield {"failure": failure_of_error(error)}


def _answer(predictor: Predictor, images: Sequence[Path], question: str, *arguments: Any) -> Any:
    if question == "peak":
        return peak_memory(predictor.device)
    if question == "predict":
        for index, path in enumerate(images):
            np.save(Path(arguments[0], f"{index}.npy"), predictor(np.load(path)))
        return None
    image = np.load(images[0])
    seconds: list[float] = []
    while not seconds or sum(seconds) < arguments[0]:
        start = time.perf_counter()
        predictor(image)  # ends with a copy to the CPU
        seconds.append(time.perf_counter() - start)
    return seconds
