"""Directives for what the package knows itself: public names, output of the command, recipes, measured results."""

from __future__ import annotations

import ast
import contextlib
import csv
import importlib
import inspect
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import zoo_tables
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).parents[2]
EXPERIMENTS = ROOT / "experiments"
PACKAGES = ("callbacks", "data", "errors", "inference", "losses", "metrics", "models", "optim", "visualize")
NO_BREAK, HYPHEN = "\N{NO-BREAK SPACE}", "\N{NON-BREAKING HYPHEN}"
MOST_LINES = 80  # of a verb's help; those of Lightning's verbs list every argument of Trainer, task and data module
MODULES = ("hrseg", *(f"hrseg.{package}" for package in PACKAGES))


class Generated(SphinxDirective):
    """Parses what `lines` returns in the syntax of the page that it stands in."""

    required_arguments = 1
    optional_arguments = 20
    final_argument_whitespace = False
    has_content = False

    def lines(self) -> list[str]:
        """The text to parse."""
        raise NotImplementedError

    def run(self) -> list[nodes.Node]:
        """The parsed nodes."""
        return self.parse_text_to_nodes("\n".join(self.lines()), allow_section_headings=False)


class CommandOutput(Generated):
    """`{command} hrseg models`: what a command prints."""

    def lines(self) -> list[str]:  # noqa: D102
        return ["```text", output_of(self.arguments[1:]).strip(), "```"]


class Networks(Generated):
    """`{networks} families` or `{networks} results`: a table of the model zoo."""

    def lines(self) -> list[str]:  # noqa: D102
        text = "\n".join(table(*getattr(zoo_tables, self.arguments[0])()))
        text = re.sub(r"(?<=\d) (?=[MG] )", NO_BREAK, text)
        return re.sub(r"(\.\d+)-(?=\d+\.)", rf"\1{HYPHEN}", text).splitlines()


def output_of(arguments: Sequence[str]) -> str:
    """What `hrseg ARGUMENTS` prints."""
    from hrseg.cli import main

    stream = io.StringIO()
    with contextlib.redirect_stdout(stream), contextlib.suppress(SystemExit):
        code = main(list(arguments))
        if code:
            raise RuntimeError(f"hrseg {' '.join(arguments)} ended with exit code {code}")
    return stream.getvalue()


class Verbs(SphinxDirective):
    """`{verbs}`: a section for each verb of the command, with its help."""

    def run(self) -> list[nodes.Node]:
        """The parsed sections."""
        from hrseg.cli import VERBS

        text = []
        for verb, (_, purpose) in VERBS.items():
            options = "--images --help" if verb == "predict" else "--help"
            lines = output_of([verb, *options.split()]).strip()
            if len(lines.splitlines()) < MOST_LINES:
                text += [f"## {verb}", "", f"{purpose[0].upper()}{purpose[1:]}.", "", "```text", lines, "```", ""]
        return self.parse_text_to_nodes("\n".join(text), allow_section_headings=True)


class PublicNames(Generated):
    """`{public-names} hrseg.data`: table and entries of a module's public names, less those that hrseg itself has."""

    def lines(self) -> list[str]:  # noqa: D102
        module = self.arguments[0]
        home = importlib.import_module(module)
        names = public_names(module)
        elsewhere = [] if module == "hrseg" else [name for name in names if name in public_names("hrseg")]
        names = [name for name in names if name not in elsewhere]
        kinds = {name: kind_of(getattr(home, name)) for name in names}
        text = [f".. currentmodule:: {module}", "", ".. autosummary::", ""]
        text[-1:] = ["   :nosignatures:", ""]
        text += [f"   {name}" for name, kind in kinds.items() if kind != "data"]
        if elsewhere:
            links = ", ".join(f":py:obj:`{name} <hrseg.{name}>`" for name in elsewhere)
            text += ["", f"Also here, and described with :doc:`hrseg <hrseg>`: {links}."]
        for name, kind in kinds.items():
            if kind == "data":
                value = getattr(home, name)
                kind = type(value).__name__
                text += ["", f".. py:data:: {module}.{name}", *([] if kind[0] == "_" else [f"   :type: {kind}"]), ""]
                text += [f"   {summary(value)}"]
            else:
                text += ["", f".. auto{kind}:: {module}.{name}"]
                text += ["   :members:", "   :show-inheritance:"] if kind != "function" else []
        return text


def public_names(module: str) -> list[str]:
    """What a module offers: `__all__`, or the functions and classes that it defines."""
    home = importlib.import_module(module)
    if hasattr(home, "__all__"):
        return sorted(home.__all__)
    return [
        name
        for name, value in vars(home).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module
    ]


def kind_of(value: Any) -> str:
    """The autodoc directive of an object."""
    if inspect.isclass(value):
        return "exception" if issubclass(value, BaseException) else "class"
    return "function" if inspect.isroutine(value) else "data"


def summary(value: Any) -> str:
    """One line on a constant."""
    if isinstance(value, Mapping):
        return f"Keys: {', '.join(f'`{key}`' for key in value)}." if len(value) < 50 else f"{len(value)} entries."
    if hasattr(value, "num_classes"):
        return f"{value.num_classes} classes."
    return f"`{value}`"


class Recipes(Generated):
    """`{recipes} cityscapes`: the recipes of a folder with what their headers say, each to be downloaded."""

    def lines(self) -> list[str]:  # noqa: D102
        rows = []
        for path in sorted((EXPERIMENTS / self.arguments[0]).glob("*.yaml")):
            link = f"{{download}}`{path.stem} </../experiments/{path.relative_to(EXPERIMENTS).as_posix()}>`"
            rows.append((link, escaped(" ".join(header_of(path)))))
        return table(("recipe", "what its header says"), rows)


def header_of(path: Path) -> list[str]:
    """The comment lines on top of a YAML file, without the sources' paths."""
    lines = []
    for line in path.read_text().splitlines():
        if not line.startswith("#") or line.startswith("# Source:"):
            break
        lines.append(line.removeprefix("#").strip())
    return lines


class Results(Generated):
    """`{results} benchmark_cpu.csv forward train`: the newest rows of each comparison, of all subjects by default."""

    option_spec: ClassVar = {"columns": str}

    def lines(self) -> list[str]:  # noqa: D102
        with (EXPERIMENTS / "results" / self.arguments[0]).open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if row.get("subject") in (*self.arguments[1:], None)]
        columns = [column.strip() for column in self.options["columns"].split(",")]
        return table(columns, [[cell(row, column) for column in columns] for row in newest(rows)])


def newest(rows: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """Drops comparisons that were measured again: a comparison is a case whose sides follow each other."""
    comparisons: list[list[dict[str, str]]] = []
    for row in rows:
        last = comparisons[-1] if comparisons else []
        is_same = "case" in row and last and row["case"] == last[0]["case"]
        if is_same and row["side"] not in [other["side"] for other in last]:
            last.append(row)
        else:
            comparisons.append([row])
    by_sides = {tuple((row.get("case", id(row)), row.get("side")) for row in group): group for group in comparisons}
    return [row for group in by_sides.values() for row in group]


class Scaling(Generated):
    """`{scaling} 25`: the predicted efficiencies at a bandwidth in GB/s, a row for each network."""

    def lines(self) -> list[str]:  # noqa: D102
        with (EXPERIMENTS / "results" / "scaling.csv").open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["subject"] == "scaling"]
        networks: dict[str, dict[str, str]] = {}
        bandwidth = f"{self.arguments[0]} GB/s"
        for row in rows:
            name, *setting = re.split("[,;] ", row["case"])
            if not setting:
                networks.setdefault(name, {})[row["side"]] = f"{row['value']}{NO_BREAK}{row['unit']}".strip()
            elif setting[1] == bandwidth:
                kind = row["side"] + ("" if len(setting) == 2 else ", SyncBN")
                networks[name][kind] = f"{100 * float(row['ratio']):.0f} %"
        columns = ["gradients of a step", "messages of SyncBN in a step"]
        columns += [f"{gpus} GPUs{kind}" for kind in ("", ", SyncBN") for gpus in (8, 64, 512)]
        return table(("network", *columns), [[f"`{name}`", *map(row.get, columns)] for name, row in networks.items()])


class CodeMap(Generated):
    """`{code-map}`: every file of the package with the first line of its docstring."""

    required_arguments = 0

    def lines(self) -> list[str]:  # noqa: D102
        rows = []
        for path in sorted((ROOT / "hrseg").rglob("*.py"), key=lambda path: path.as_posix().replace("__init__", "")):
            docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
            name = path.relative_to(ROOT).as_posix().removesuffix("__init__.py")
            rows.append((f"`{name}`", escaped(docstring.split("\n")[0])))
        return table(("file", "what it is"), rows)


def cell(row: dict[str, str], column: str) -> str:
    """One value of a results file for people; shares as per cent."""
    value = row[column]
    if column == "value":
        return f"{value}{NO_BREAK}{row['unit']}".strip()
    if column in ("miou", "pixel_accuracy", "mean_accuracy") and value:
        return f"{100 * float(value):.1f} %"
    if column == "differing" and value:
        return f"{100 * float(value):.3g} %"
    if column == "ratio" and value:
        return f"{float(value):.2f}"
    return escaped(value).replace("-", HYPHEN) if column == "date" else escaped(value)


def escaped(text: str) -> str:
    """Text that Markdown shows as it is, with code between backticks."""
    parts = re.split(r"(`[^`]*`)", text)
    parts[::2] = [re.sub(r"([|*_<>\[\]])", r"\\\1", part) for part in parts[::2]]
    return "".join(parts)


def table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A Markdown table."""
    return [f"| {' | '.join(cells)} |" for cells in (heading, ["---"] * len(heading), *rows)]


def as_rst(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Escapes what reStructuredText would take for markup: our docstrings mean it as it stands."""
    in_example = False
    for number, line in enumerate(lines):
        in_example = line.lstrip().startswith(">>>") or (in_example and bool(line.strip()))
        if not in_example:
            parts = re.split(r"(``?[^`]*``?)", line)
            parts[::2] = [re.sub(r"([*|]|(?<=\w)_(?!\w))", r"\\\1", part) for part in parts[::2]]
            lines[number] = "".join(parts)


def public_bases(app: Sphinx, name: str, obj: Any, options: Any, bases: list[Any]) -> None:
    """Leaves out base classes that are not public."""
    public = [getattr(importlib.import_module(module), n) for module in MODULES for n in public_names(module)]
    bases[:] = [base for base in bases if not base.__module__.startswith("hrseg") or base in public]


def write_llms_txt(app: Sphinx, exception: Exception | None) -> None:
    """Writes llms.txt (llmstxt.org) at the site's root: every page with its first sentence, in their order."""
    if exception or app.builder.format != "html":
        return
    env = app.env
    lines = [f"# {app.config.project}", "", f"> {app.config.llms_summary}", "", "## Pages", ""]
    for page in in_order(env.toctree_includes, app.config.root_doc)[1:]:
        paragraph = next(iter(env.get_doctree(page).findall(nodes.paragraph)), None)
        first = "" if paragraph is None else ": " + re.split(r"(?<=\.)\s", paragraph.astext())[0].replace("\n", " ")
        lines.append(f"- [{env.titles[page].astext()}]({app.builder.get_target_uri(page)}){first}")
    Path(app.outdir, "llms.txt").write_text("\n".join(lines) + "\n")


def in_order(includes: Mapping[str, Sequence[str]], page: str) -> list[str]:
    """A page and all below it in the tree of contents."""
    return [page, *(below for child in includes.get(page, ()) for below in in_order(includes, child))]


def setup(app: Sphinx) -> dict[str, bool]:
    """Registers the directives."""
    app.add_directive("command", CommandOutput)
    app.add_directive("networks", Networks)
    app.add_directive("verbs", Verbs)
    app.add_directive("public-names", PublicNames)
    app.add_directive("recipes", Recipes)
    app.add_directive("results", Results)
    app.add_directive("scaling", Scaling)
    app.add_directive("code-map", CodeMap)
    app.add_config_value("llms_summary", "", "html", str)
    app.connect("build-finished", write_llms_txt)
    app.connect("autodoc-process-bases", public_bases)
    app.connect("autodoc-process-docstring", as_rst, priority=400)  # before napoleon
    return {"parallel_read_safe": True}
