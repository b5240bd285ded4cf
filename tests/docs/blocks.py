"""The code blocks of README and docs, and how each kind is run."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "docs").glob("*/*.md")]
)
_REASON = re.compile(r"^<!-- not run: (.{8,}) -->$")
_FILE = re.compile(r"^<!-- file: ([\w.]+) -->$")


@dataclass(frozen=True)
class Block:
    """A fenced block of code.

    Args:
        page: The file.
        line: Where it begins, from 1.
        language: The fence's first word.
        text: What stands in it.
        reason: Why it is not run; None where it is.
        file: Name of the file that it is the content of; None for a block that is run itself.
    """

    page: Path
    line: int
    language: str
    text: str
    reason: str | None
    file: str | None

    @property
    def where(self) -> str:
        """For messages."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    """The blocks of a page in their order, without MyST's directives."""
    text = page.read_text()
    lines = text.splitlines()
    blocks = []
    for token in MarkdownIt().enable("table").parse(text):
        if token.type != "fence" or token.info.startswith("{"):
            continue
        assert token.map is not None
        before = lines[token.map[0] - 1]
        reason, file = (marker and marker[1] for marker in (_REASON.match(before), _FILE.match(before)))
        language = token.info.split()[0] if token.info else ""
        blocks.append(Block(page, token.map[0] + 1, language, token.content, reason, file))
    return blocks


def commands_of(block: Block) -> Iterator[list[str]]:
    """The commands of a block, their words apart, without comments."""
    for line in block.text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words:
            yield words


def hrseg_arguments(words: list[str]) -> list[str] | None:
    """The arguments of `hrseg` in a command, whatever starts it (torchrun, srun, docker); None if none does."""
    for before, word, verb in zip(["", *words], words, words[1:], strict=False):
        if word == "hrseg" and before != "--tag" and not verb.startswith("-f"):
            return words[words.index(verb) :]
    return None


def make_targets() -> set[str]:
    """The targets of the Makefile."""
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def extras() -> set[str]:
    """The extras of the package."""
    text = (ROOT / "pyproject.toml").read_text().split("[project.optional-dependencies]")[1].split("\n[")[0]
    return set(re.findall(r"^(\w+) = ", text, re.MULTILINE))
