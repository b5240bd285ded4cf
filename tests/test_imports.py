"""Nothing imports upwards, and light modules stay light."""

from __future__ import annotations

import ast
import importlib
import pickle
import subprocess
import sys
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
    "models": set(),
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
    "run": {"callbacks", "task", "inference", "data", "models"},
}
EVERYTHING = {"cli", "__main__"}


def part_of(module: str) -> str:
    """hrseg.data.labels -> data.labels; hrseg.data.base -> data; hrseg.models.networks.hrnet -> models."""
    names = module.split(".")[1:]
    if names[:2] == ["data", "labels"]:
        return "data.labels"
    return names[0] if names else ""


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
            assert target in ALLOWED[part] | foundation, f"{module} imports {name}"


def test_an_arrow_upwards_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "m.py"
    path.write_text("def f():\n    from hrseg.task import SegmentationTask\n")
    assert {part_of(name) for name in imports_of(path)} == {"task"}
    assert "task" not in ALLOWED["models"] | FOUNDATION


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("hrseg", ["torch", "cv2", "numpy"]),
        ("hrseg.cli", ["torch", "cv2", "numpy"]),
        ("hrseg.data.labels", ["torch", "pytorch_lightning", "albumentations"]),
        ("hrseg.data.tools.guess", ["torch", "pytorch_lightning", "albumentations"]),
        ("hrseg.models.factory", ["pytorch_lightning", "albumentations", "segmentation_models_pytorch", "timm"]),
        ("hrseg.inference", ["pytorch_lightning", "albumentations", "segmentation_models_pytorch", "timm"]),
    ],
)
def test_light_imports(module: str, absent: list[str]) -> None:
    script = f"import sys, {module}; print([name for name in {absent} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("package", ["hrseg", "hrseg.data", "hrseg.data.datasets.street_scenes", "hrseg.models"])
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
