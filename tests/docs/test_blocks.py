"""Every command and Python block of README and docs runs, on small data, or says why it does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from hrseg.cli import VERBS, main
from tests.docs.blocks import PAGES, ROOT, Block, blocks_of, commands_of, extras, hrseg_arguments, make_targets
from tests.docs.conftest import TINY, TINY_SCENES

by_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())


@by_page
def test_commands_name_what_there_is(page: Path) -> None:
    """Those that are not run, too: verbs, recipes, scripts, make targets, extras."""
    for block in blocks_of(page):
        assert block.language in ("bash", "python", "yaml", "text"), f"{block.where}: a block of {block.language!r}"
        if block.language != "bash":
            continue
        for words in commands_of(block):
            arguments = hrseg_arguments(words)
            if arguments is not None:
                assert arguments[0] in VERBS or arguments[0].startswith("-"), f"{block.where}: {arguments[0]}"
            if words[0] == "make":
                assert set(words[1:]) <= make_targets(), f"{block.where}: {words}"
            if words[:2] == ["pip", "install"]:
                named = words[-1].rpartition("[")[2].removesuffix("]") if "[" in words[-1] else ""
                assert set(filter(None, named.split(","))) <= extras(), f"{block.where}: {words}"
            for word in words:
                if word.startswith(("experiments/", "docker/", "notebooks/")):
                    assert (ROOT / word).exists(), f"{block.where}: {word}"


@by_page
def test_blocks_run(page: Path, place: Path) -> None:
    names: dict[str, Any] = {"__name__": page.stem}
    blocks = [block for block in blocks_of(page) if block.reason is None]
    prepare(place, blocks)
    for block in blocks:
        if block.file is not None:
            (place / block.file).write_text(block.text)
        elif block.language == "python":
            exec(compile("\n" * block.line + block.text, str(block.page), "exec"), names)
        elif block.language == "yaml":
            assert yaml.safe_load(block.text), block.where
        elif block.language == "bash":
            for words in commands_of(block):
                run(words, block)


def prepare(place: Path, blocks: list[Block]) -> None:
    """Leaves out of a page's folder what its own commands write."""
    code = "\n".join(block.text for block in blocks)
    if "--guess" in code:
        (place / "data/mine/classes.yaml").unlink()
    if "hrseg fit     --config experiments/quickstart.yaml" in code:
        (place / "runs/quickstart/0").rename(place / "another_run")


def run(words: list[str], block: Block) -> None:
    """Runs a command of hrseg; of others, `test_commands_name_what_there_is` has looked at all there is."""
    if words[:3] == ["python", "-m", "experiments.benchmarks"]:
        from experiments.benchmarks.__main__ import main as compare

        assert compare(words[3:]) == 0, block.where
        return
    if words[0] != "hrseg":
        assert words[0] in ("make", "pip"), f"{block.where}: cannot run {words[0]}; say why: <!-- not run: ... -->"
        return
    try:
        code = main(words[1:] + (small(words) if words[1] == "fit" else []))
    except SystemExit as stop:  # of --help, --print_config
        code = stop.code or 0
    assert code == 0, f"{block.where}: {' '.join(words)} ended with exit code {code}"


def small(words: list[str]) -> list[str]:
    """Options that make a training small: one step, the smallest network, crops of the fakes' size."""
    path = words[words.index("--config") + 1]
    if not path.startswith("experiments/"):  # a page's own
        return []
    recipe = yaml.safe_load(Path(path).read_text())
    scenes = recipe["data"]["class_path"] == "hrseg.StreetScenesDataModule"
    return [*TINY, *(TINY_SCENES if scenes else [])]
