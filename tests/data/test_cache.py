"""Many processes that want the same results at the same time, as in a training on several nodes."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hrseg.data.cache import map_cached
from hrseg.data.dataset import Sample
from hrseg.data.datasets.street_scenes import write_scenes
from tests.processes import run

PROCESSES = 4
SAMPLES = 10


def at_once(script: str, folder: Path) -> list[str]:
    """The outputs of processes that start at the same time."""
    wait = (
        "import os, time\n"
        "with open('ready', 'ab') as file:\n"
        "    file.write(b'.')\n"
        f"while os.path.getsize('ready') < {PROCESSES}:\n"
        "    time.sleep(0.001)\n"
    )
    imports, work = script.split("---")
    with ThreadPoolExecutor(PROCESSES) as pool:
        done = [pool.submit(run, f"{imports}\n{wait}{work}", folder) for _ in range(PROCESSES)]
    assert [process.result().returncode for process in done] == [0] * PROCESSES
    return [process.result().stdout for process in done]


def slow_square(sample: Sample) -> int:
    """Records each call in a file."""
    with Path("calls").open("a") as calls:
        calls.write(f"{sample.name}\n")
    time.sleep(0.02)
    return int(sample.name) ** 2


def ask() -> None:
    """Prints the results and the number of those computed in this process."""
    samples = [Sample(str(number), Path(f"{number}.png"), None) for number in range(SAMPLES)]
    results, computed = map_cached(slow_square, samples, "squares", ["v1"], "squaring")
    print(json.dumps([[results[sample] for sample in samples], computed]))


def test_one_process_computes_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HRSEG_HOME", str(tmp_path / "home"))
    script = "from tests.data.test_cache import ask\n---ask()"
    answers = [json.loads(output) for output in at_once(script, tmp_path)]
    assert [answer[0] for answer in answers] == [[number**2 for number in range(SAMPLES)]] * PROCESSES
    assert sorted(answer[1] for answer in answers) == [0, 0, 0, SAMPLES]
    assert sorted((tmp_path / "calls").read_text().split()) == sorted(map(str, range(SAMPLES)))
    left = sorted(path.suffix for path in (tmp_path / "home" / "squares").iterdir())
    assert left == [".json", ".lock"]


def test_one_process_draws_the_scenes(tmp_path: Path) -> None:
    script = (
        "from pathlib import Path; import hrseg.data.datasets.street_scenes.files as files\n"
        "drawn = []; draw = files._write\n"
        "files._write = lambda *arguments: (drawn.append(1), draw(*arguments))\n"
        "---files.write_scenes(Path('scenes'), {'train': 3}, (64, 128)); print(len(drawn))"
    )
    assert sorted(at_once(script, tmp_path)) == ["0\n", "0\n", "0\n", "3\n"]
    write_scenes(tmp_path / "alone", {"train": 3}, (64, 128))
    files = sorted(path.relative_to(tmp_path / "alone") for path in (tmp_path / "alone").rglob("*"))
    assert files == sorted(path.relative_to(tmp_path / "scenes") for path in (tmp_path / "scenes").rglob("*"))
    for file in files:
        if (tmp_path / "alone" / file).is_file():
            assert (tmp_path / "alone" / file).read_bytes() == (tmp_path / "scenes" / file).read_bytes()


def test_a_cache_that_cannot_be_locked_or_written_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "home").write_text("a file where the folder should be")
    monkeypatch.setenv("HRSEG_HOME", str(tmp_path / "home"))
    samples = [Sample(str(number), Path(f"{number}.png"), None) for number in range(3)]
    for _ in range(2):
        results, computed = map_cached(slow_square, samples, "squares", ["v1"], "squaring")
        assert (list(results.values()), computed) == ([0, 1, 4], 3)
