#!/bin/sh
# Installs hrseg from /opt/hrseg into /opt/venv, for docker/Dockerfile and docker/hrseg.def. Debian or Ubuntu, as root.
#
#     install.sh system      the distribution's Python, and the compiler that torch.compile and Triton need
#     install.sh packages    the dependencies of pyproject.toml, in the versions of constraints.txt (7 GB)
#     install.sh hrseg       hrseg itself, after the other two
set -eu

system() {
    apt-get update
    DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
        ca-certificates g++ python3-dev python3-venv
    rm -rf /var/lib/apt/lists/*
}

packages() {
    # a venv: the distribution's Python is externally managed (PEP 668)
    python3 -m venv /opt/venv
    # the dependencies alone, so that a change of hrseg's source does not reinstall them
    /opt/venv/bin/python > /tmp/requirements.txt << EOF
import tomllib

with open("/opt/hrseg/pyproject.toml", "rb") as file:
    project = tomllib.load(file)["project"]
print(*project["dependencies"], *project["optional-dependencies"]["prepare"], sep="\n")
EOF
    /opt/venv/bin/pip install --constraint /opt/hrseg/constraints.txt --requirement /tmp/requirements.txt
    rm /tmp/requirements.txt
}

hrseg() {
    /opt/venv/bin/pip install --no-deps /opt/hrseg
    rm -rf /opt/hrseg/build /opt/hrseg/hrseg.egg-info
}

case "${1:-}" in
    system | packages | hrseg) "$1" ;;
    *) sed -n '2,6s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
