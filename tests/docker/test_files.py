"""Dockerfile, compose.yaml and hrseg.def say the same; `make test-docker` builds the image for real."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
import yaml

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
HEALTHCHECK = "/opt/hrseg/docker/healthcheck.py"


def dockerfile() -> list[tuple[str, str]]:
    """The instructions of docker/Dockerfile, without comments, each in one line."""
    text = re.sub(r"^#.*\n", "", (DOCKER / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", "")
    return [(line.split()[0], " ".join(line.split()[1:])) for line in text.splitlines() if line]


def instruction(name: str) -> list[str]:
    return [rest for key, rest in dockerfile() if key == name]


def definition() -> dict[str, list[str]]:
    """The lines of each section of docker/hrseg.def; those of its head under "", all without comments."""
    sections: dict[str, list[str]] = {"": []}
    section = ""
    for line in (DOCKER / "hrseg.def").read_text().splitlines():
        if line.startswith("%"):
            section = line[1:]
            sections[section] = []
        elif line.strip() and not line.strip().startswith("#"):
            sections[section].append(line.strip())
    return sections


def services() -> dict[str, dict[str, Any]]:
    compose = yaml.safe_load((DOCKER / "compose.yaml").read_text())
    assert set(compose) == {"name", "x-hrseg", "services", "volumes"}
    return compose["services"]


def context() -> set[str]:
    """The paths that .dockerignore lets into the image."""
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    return {line[1:] for line in lines if line.startswith("!")}


def test_dockerfile_and_definition_stand_on_the_same_base() -> None:
    (base,) = (rest.removeprefix("BASE=") for rest in instruction("ARG") if rest.startswith("BASE="))
    assert instruction("FROM") == ["${BASE}"]
    assert definition()["arguments"] == [f"BASE={base}"]
    assert definition()[""] == ["Bootstrap: docker", "From: {{ BASE }}"]
    match = re.fullmatch(r"nvidia/cuda:(\d+)\.\d+\.\d+-base-ubuntu24\.04", base)  # its Python is 3.12
    assert match
    if torch.version.cuda:
        assert match[1] == torch.version.cuda.partition(".")[0], "the base's CUDA is to be PyTorch's"


def test_both_install_the_same_files_in_the_same_steps() -> None:
    files = dict(line.split() for line in definition()["files"])
    assert set(files) == context()
    assert all((ROOT / path).exists() for path in files)
    assert {path: str(Path(target) / Path(path).name) for path, target in files.items()} == {
        path: f"/opt/hrseg/{path}" for path in files
    }
    for line in instruction("COPY"):
        *sources, target = line.split()
        assert target.startswith("/opt/hrseg/")
        for source in sources:
            assert source == "." or source in context(), f"{source} is not in the build's context"
    steps = [" ".join(line.split()[-3:]) for line in instruction("RUN") if "install.sh" in line]
    assert steps == [line for line in definition()["post"] if line.startswith("sh ")]
    assert [step.split()[-1] for step in steps] == ["system", "packages", "hrseg"]


def test_an_edit_of_the_source_comes_after_the_packages() -> None:
    lines = [" ".join(pair) for pair in dockerfile()]
    (packages,) = (n for n, line in enumerate(lines) if line.endswith("install.sh packages"))
    before = {source for line in lines[:packages] if line.startswith("COPY") for source in line.split()[1:-1]}
    assert before == {"docker/install.sh", "pyproject.toml", "constraints.txt"}


def test_what_is_large_or_private_stays_out_of_the_context() -> None:
    for path in (".git", ".venv", "data", "runs", "tests"):
        assert not any(fnmatch(path, pattern) for pattern in context())


def test_both_start_the_command_of_pyproject() -> None:
    assert json.loads(instruction("ENTRYPOINT")[0]) == ["hrseg"]
    assert json.loads(instruction("CMD")[0]) == ["--help"]
    assert definition()["runscript"] == ['exec hrseg "$@"']
    assert '\nhrseg = "hrseg.cli:main"\n' in (ROOT / "pyproject.toml").read_text()
    path = next(part for line in instruction("ENV") for part in line.split() if part.startswith("PATH="))
    assert path == "PATH=/opt/venv/bin:${PATH}"
    assert "export PATH=/opt/venv/bin:$PATH" in definition()["environment"]


def test_nobody_is_root() -> None:
    assert instruction("USER") == ["${UID}:${GID}"]
    defaults = dict(rest.split("=") for rest in instruction("ARG"))
    assert int(defaults["UID"]) >= 1000
    assert int(defaults["GID"]) >= 1000
    for service in services().values():
        assert service["user"] == f"${{HRSEG_UID:-{defaults['UID']}}}:${{HRSEG_GID:-{defaults['GID']}}}"


def test_both_check_their_health_in_the_same_way() -> None:
    (health,) = instruction("HEALTHCHECK")
    assert json.loads(health.partition("CMD ")[2]) == ["python", HEALTHCHECK]
    assert definition()["test"] == [f"python {HEALTHCHECK}"]
    subprocess.run([sys.executable, DOCKER / "healthcheck.py"], check=True, cwd=ROOT, env={"PYTHONPATH": str(ROOT)})


def test_compose_builds_the_dockerfile_and_mounts_what_it_names() -> None:
    assert set(services()) == {"train", "tensorboard"}
    (workdir,) = instruction("WORKDIR")
    for service in services().values():
        assert service["image"] == "hrseg"
        build = service["build"]
        assert (DOCKER / build["context"]).resolve() == ROOT
        assert (ROOT / build["dockerfile"]).is_file()
    train, tensorboard = services()["train"], services()["tensorboard"]
    mounts = {volume["target"]: volume for volume in train["volumes"] if isinstance(volume, dict)}
    assert set(mounts) == {f"{workdir}/data", f"{workdir}/runs"}
    assert mounts[f"{workdir}/data"]["read_only"]
    assert not mounts[f"{workdir}/runs"].get("read_only")
    assert tensorboard["volumes"] == [{**mounts[f"{workdir}/runs"], "read_only": True}]
    assert "cache:/cache" in train["volumes"]
    assert "/cache" in " ".join(instruction("ENV"))


def test_compose_trains_the_quickstart_on_gpus_with_tensorboard_beside_it() -> None:
    train, tensorboard = services()["train"], services()["tensorboard"]
    assert train["command"] == ["fit", "--config", "experiments/quickstart.yaml"]
    assert (ROOT / train["command"][2]).is_file()
    assert "entrypoint" not in train
    (device,) = train["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}
    assert tensorboard["entrypoint"] == ["tensorboard"]
    assert "6006" in tensorboard["command"]
    assert tensorboard["ports"] == ["127.0.0.1:6006:6006"]
    assert "deploy" not in tensorboard


def test_the_python_of_the_bases_is_one_that_pyproject_allows() -> None:
    requires = re.search(r'requires-python = ">=3\.(\d+)"', (ROOT / "pyproject.toml").read_text())
    assert requires
    (needed,) = re.findall(r"Python 3\.(\d+) or newer", (DOCKER / "Dockerfile").read_text())
    assert int(requires[1]) <= int(needed) <= 11  # 3.11 is bookworm's, which `make test-docker` builds on
