"""Nothing imports upwards or in a circle, and light modules stay light."""

from __future__ import annotations

import ast
import importlib
import pickle
import re
import subprocess
import sys
from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import hrseg

PACKAGE = Path(__file__).parents[1] / "hrseg"

# what each part may import of hrseg, beside itself; everything but errors may import utils
FOUNDATION = {"errors", "utils"}
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "utils": {"errors"},
    "data.labels": set(),
    "models.registry": set(),
    "models.catalog": {"models.registry"},
    "models.networks": {"models.registry"},
    "models.weights": {"models.registry", "models.catalog", "models.networks"},
    "models": {"models.registry", "models.catalog", "models.networks", "models.weights"},  # the factory and above it
    "losses": set(),
    "metrics": set(),
    "optim": set(),
    "data": {"data.labels"},
    "data.datasets": {"data", "data.labels"},
    "data.tools": {"data", "data.labels", "data.datasets"},
    "visualize": {"data.labels"},
    "inference": {"models", "data.labels", "visualize"},
    "task": {"models", "losses", "metrics", "optim", "inference", "data.labels"},
    "callbacks": {"task", "models", "inference", "metrics", "optim", "visualize", "data.labels"},
    "export": {"run", "callbacks", "task", "inference", "metrics", "data", "data.datasets", "models", "data.labels"},
    "run": {"callbacks", "task", "inference", "data", "data.datasets", "models"},
}
EVERYTHING = {"cli", "__main__"}


def part_of(module: str) -> str:
    """The longest part of `ALLOWED` that a module is of: hrseg.data.base -> data; hrseg.models.networks.hrnet -> ..."""
    names = module.split(".")[1:]
    if names[-1:] == ["convert"]:  # it builds networks, above the factory
        return "models"
    parts = (".".join(names[:length]) for length in range(len(names), 0, -1))
    return next((part for part in parts if part in ALLOWED), names[0] if names else "")


def imports_of(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.split(".")[0] == "hrseg"}


MODULES = [path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_imports_go_downwards(path: Path) -> None:
    module = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    part = part_of(module)
    if part in EVERYTHING:
        return
    assert part in ALLOWED, f"{module} is in no part that the design knows"
    if path.name == "__init__.py":  # a package may offer its own modules
        return
    foundation = FOUNDATION if part not in FOUNDATION else set()
    for name in imports_of(path):
        target = part_of(name)
        if target not in ("", part):
            target = target if part.startswith("models") else re.sub("^models.*", "models", target)
            assert target in ALLOWED[part] | foundation, f"{module} imports {name}"


def files_imported(path: Path, module: str, files: Mapping[str, Path]) -> set[str]:
    """The modules among `files` that a file imports, imports inside functions included, those for types alone not."""
    tree = ast.parse(path.read_text())
    for_types = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for statement in node.body
        for inner in ast.walk(statement)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if node in for_types:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in files else node.module for name in names}
    return {name for name in found & files.keys() if name != module}


def circle_among(root: Path) -> list[str]:
    """Modules of a package that import each other in a circle, all of them; empty if there is none."""
    files = {
        ".".join(path.relative_to(root.parent).with_suffix("").parts).removesuffix(".__init__"): path
        for path in root.rglob("*.py")
    }
    imports = {module: files_imported(path, module, files) for module, path in files.items()}
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_files_import_each_other_in_a_circle() -> None:
    assert circle_among(PACKAGE) == []


def test_a_circle_is_noticed(tmp_path: Path) -> None:
    package = tmp_path / "hrseg"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "a.py").write_text("def f():\n    from hrseg import b\n")
    (package / "b.py").write_text("if True:\n    from hrseg.c import g\n")
    (package / "c.py").write_text("from typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    from hrseg.a import f\n")
    assert circle_among(package) == []
    (package / "c.py").write_text("def g():\n    import hrseg.a\n")
    assert set(circle_among(package)) == {"hrseg.a", "hrseg.b", "hrseg.c"}


@pytest.mark.parametrize("path", sorted((PACKAGE / "models" / "networks").glob("*.py")), ids=lambda path: path.stem)
def test_networks_need_torch_alone(path: Path) -> None:
    roots: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            roots |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            roots.add(str(node.module).split(".")[0])
    assert roots - set(sys.stdlib_module_names) <= {"torch", "hrseg"}


def test_an_arrow_upwards_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "m.py"
    path.write_text("def f():\n    from hrseg.task import SegmentationTask\n")
    assert {part_of(name) for name in imports_of(path)} == {"task"}
    assert "task" not in ALLOWED["models"] | FOUNDATION
    assert part_of("hrseg.models.hub.from_pretrained") not in ALLOWED["models.weights"] | FOUNDATION


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("hrseg", ["torch", "cv2", "numpy"]),
        ("hrseg.cli", ["torch", "cv2", "numpy"]),
        ("hrseg.data.labels", ["torch", "pytorch_lightning", "albumentations"]),
        ("hrseg.data.tools.guess", ["torch", "pytorch_lightning", "albumentations"]),
        ("hrseg.models.catalog", ["torch", "numpy"]),
        ("hrseg.models.factory", ["pytorch_lightning", "albumentations", "segmentation_models_pytorch", "timm"]),
        ("hrseg.inference", ["pytorch_lightning", "albumentations", "segmentation_models_pytorch", "timm"]),
    ],
)
def test_light_imports(module: str, absent: list[str]) -> None:
    script = f"import sys, {module}; print([name for name in {absent} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "package", ["hrseg", "hrseg.data", "hrseg.data.datasets.street_scenes", "hrseg.inference", "hrseg.models"]
)
def test_every_lazy_name_can_be_imported(package: str) -> None:
    module = importlib.import_module(package)
    star: dict[str, object] = {}
    exec(f"from {package} import *", star)
    assert set(dir(module)) == set(module.__all__) == star.keys() - {"__builtins__"}
    with pytest.raises(AttributeError, match=f"No {package} attribute nothing"):
        _ = module.nothing
    with pytest.raises(ImportError, match="cannot import name 'nothing'"):
        exec(f"from {package} import nothing")


def test_lazy_classes_can_be_pickled() -> None:
    assert hrseg.SegmentationTask.__module__.startswith("hrseg.task")
    assert pickle.loads(pickle.dumps(hrseg.SegmentationTask)) is hrseg.SegmentationTask
