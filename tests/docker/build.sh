#!/usr/bin/env bash
# Builds docker/Dockerfile on Debian bookworm, runs the quickstart's first steps inside, and rebuilds after an edit of the
# source; then docker/hrseg.def, where apptainer is installed. Debian, as root; Docker's engine is not needed.
#
#     build.sh [FOLDER]    FOLDER keeps the base and the images between runs, about 10 GB (several times that on a system
#                          without overlay); ~/.cache/hrseg-test-docker if not given
#
# pip's settings on this machine apply to the builds, too, and are not left in the images.
set -euo pipefail
cd "$(dirname "$0")/../.."

folder=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/hrseg-test-docker}
base=localhost/hrseg-test-base
image=localhost/hrseg-test
uid=1234 # not the default, to see that the argument counts
version=$(sed -n 's/^__version__ = "\(.*\)"/\1/p' hrseg/__init__.py)
container='' work=''

ok() {
    printf 'ok    %-70s %4d s\n' "$1" $((SECONDS - since))
    since=$SECONDS
}

fail() {
    echo "FAIL  $*" >&2
    exit 1
}

buildah() {
    command buildah --root "$folder/storage" --runroot "$folder/run" --storage-driver "$driver" "$@"
}

cleanup() {
    [ -z "$container" ] || buildah rm "$container" > /dev/null
    [ -z "$work" ] || rm -rf "$work"
}

install() {
    command -v buildah > /dev/null && command -v debootstrap > /dev/null && return
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends buildah debootstrap > /dev/null
}

make_base() {
    buildah inspect --type image "$base" > /dev/null 2>&1 && return
    debootstrap --variant=minbase bookworm "$work/root" > "$folder/debootstrap.log" || fail "see $folder/debootstrap.log"
    rm -rf "$work"/root/dev/*
    container=$(buildah from scratch)
    buildah add --quiet "$container" "$work/root" / > /dev/null
    buildah commit --quiet "$container" "$base" > /dev/null
    buildah rm "$container" > /dev/null
    container=
}

# writes pip.conf, and prints what is to be mounted for it, SOURCE:TARGET a line
pip_settings() {
    python3 - "$work/pip.conf" << 'EOF'
import ast
import configparser
import re
import subprocess
import sys
from pathlib import Path

listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True).stdout
settings = configparser.RawConfigParser()
for line in sorted(listed.splitlines(), key=lambda line: line.startswith(":env:")):  # the environment stands above files
    name, _, value = line.partition("=")
    section, _, key = name.rpartition(".")
    section = section.replace(":env:", "global")
    text = str(ast.literal_eval(value))
    if key == "cert":
        print(f"{text}:/run/hrseg-test-cert.pem")
        text = "/run/hrseg-test-cert.pem"
    else:
        for path in re.findall(r"(?:^|(?<=\s))(?:/|file:///)\S+", text):
            # an index's links lead to files beside its folder
            folder = Path(path.removeprefix("file://")).parent if path.startswith("file:") else path
            print(f"{folder}:{folder}")
    settings.setdefault(section, {})
    settings[section][key] = text.replace("\n", "\n  ")
with open(sys.argv[1], "w") as file:
    settings.write(file)
print(f"{sys.argv[1]}:/etc/pip.conf")
EOF
}

# build CONTEXT TAG LOG
build() {
    local options=()
    for mount in "${mounts[@]}"; do
        options+=(--volume "$mount:ro")
    done
    # only Docker's format has the health check
    buildah build --format docker --layers --force-rm "${options[@]}" --build-arg "BASE=$base" --build-arg "UID=$uid" \
        --build-arg "GID=$uid" --file "$1/docker/Dockerfile" --tag "$2" "$1" > "$3" 2>&1 || {
        tail -n 20 "$3" >&2
        fail "the build; see $3"
    }
}

# the layers of an image but the last N
layers() {
    buildah inspect --type image --format '{{range .OCIv1.RootFS.DiffIDs}}{{println .}}{{end}}' "$1" | sed '/^$/d' | head -n "-$2"
}

# a list of the image's settings, with blanks between
config() {
    buildah inspect --type image --format "{{range .Docker.Config.$1}}{{println .}}{{end}}" "$image" | xargs
}

# as the image's user, in its folder and environment
inside() {
    buildah run --volume "$work/runs:/workspace/runs" "$container" -- "$@" > "$folder/inside.log" 2>&1 || {
        tail -n 20 "$folder/inside.log" >&2
        fail "in the container: $*"
    }
}

check_image() {
    local entrypoint health
    entrypoint=$(config Entrypoint)
    health=$(config Healthcheck.Test)
    container=$(buildah from "$image")
    mkdir "$work/runs" && chown "$uid:$uid" "$work/runs"

    inside id -u
    [ "$(cat "$folder/inside.log")" = "$uid" ] || fail "the user is $(cat "$folder/inside.log"), not $uid"
    inside sh -c '! [ -s /etc/pip.conf ] && ! [ -s /run/hrseg-test-cert.pem ]'
    inside "$entrypoint" --version
    grep -qF "$version" "$folder/inside.log" || fail "$entrypoint --version says $(cat "$folder/inside.log")"
    ok "$entrypoint --version, as user $uid, with nothing of pip's settings left"

    # shellcheck disable=SC2086
    inside ${health#CMD }
    ok "the health check"

    local compile='import torch; print(torch.compile(lambda x: x.sin() + 1)(torch.zeros(8)))'
    buildah run --user 4321:4321 "$container" -- python -c "$compile" > "$folder/inside.log" 2>&1 ||
        fail "torch.compile as a user without a name; see $folder/inside.log"
    ok "torch.compile, as a user without a name"

    inside "$entrypoint" fit --config experiments/quickstart.yaml --run_dir runs/first_steps \
        --data.num_train 16 --data.num_val 8 --data.num_test 8 \
        --model.warmup_steps 0 --trainer.max_epochs 1 --trainer.check_val_every_n_epoch 1
    inside "$entrypoint" predict --ckpt_path runs/first_steps/checkpoints/best.ckpt --trainer.limit_predict_batches 1
    [ "$(find "$work/runs/first_steps/predict/labels" -name '*.png' | wc -l)" = 8 ] || fail "8 predictions are expected"
    [ -z "$(find "$work/runs" ! -uid "$uid" -o ! -gid "$uid")" ] || fail "files of runs that are not user $uid's"
    ok "the quickstart's fit and predict; what they wrote is user $uid's"
    inside tensorboard --inspect --logdir runs
    grep -q 'val/miou' "$folder/inside.log" || fail "TensorBoard finds no curve of val/miou"
    ok "TensorBoard reads the curves"
    buildah rm "$container" > /dev/null
    container=
}

# an edit of the source must not install PyTorch again
check_edit() {
    mkdir "$work/edited"
    cp -r .dockerignore LICENSE README.md constraints.txt pyproject.toml docker experiments hrseg "$work/edited"
    echo 'EDITED = True' >> "$work/edited/hrseg/errors.py"
    build "$work/edited" "$image-edited" "$folder/edited.log"
    [ "$(layers "$image" 3)" = "$(layers "$image-edited" 3)" ] || fail "an edit of hrseg builds PyTorch's layer again"
    container=$(buildah from "$image-edited")
    inside python -c 'from hrseg.errors import EDITED'
    buildah rm "$container" > /dev/null
    container=
    buildah rmi "$image-edited" > /dev/null
    ok "an edit of hrseg is built in, on the layers that were there"
}

check_apptainer() {
    local options=()
    if ! command -v apptainer > /dev/null; then
        echo "--    apptainer is not installed: docker/hrseg.def was not built"
        return
    fi
    rm -f "$folder/base.tar"
    buildah push --quiet "$base" "oci-archive:$folder/base.tar"
    sed 's/^Bootstrap: docker$/Bootstrap: oci-archive/' docker/hrseg.def > "$work/hrseg.def"
    printf '\n%%setup\n' >> "$work/hrseg.def"
    for mount in "${mounts[@]}"; do
        options+=(--bind "$mount:ro")
        # apptainer mounts only on what is there
        if [ -d "${mount%%:*}" ]; then
            echo "    mkdir -p \"\$APPTAINER_ROOTFS${mount##*:}\"" >> "$work/hrseg.def"
        else
            echo "    touch \"\$APPTAINER_ROOTFS${mount##*:}\"" >> "$work/hrseg.def"
        fi
    done
    APPTAINER_TMPDIR=$work apptainer build --force "${options[@]}" --build-arg "BASE=$folder/base.tar" "$folder/hrseg.sif" \
        "$work/hrseg.def" > "$folder/apptainer.log" 2>&1 || fail "apptainer build; see $folder/apptainer.log"
    ok "apptainer build, with its test"
    [ "$(apptainer run "$folder/hrseg.sif" --version)" = "hrseg $version" ] || fail "apptainer run hrseg.sif --version"
    ok "apptainer run"
}

[ "$(id -u)" = 0 ] || fail "this needs root"
install
mkdir -p "$folder"
folder=$(realpath "$folder")
export BUILDAH_ISOLATION=chroot TMPDIR="$folder/tmp" # TMPDIR: pip's cache between builds is there
mkdir -p "$TMPDIR"
driver=overlay # vfs copies every layer in full, and works everywhere
buildah info > /dev/null 2>&1 || driver=vfs
work=$(mktemp -d)
trap cleanup EXIT
since=$SECONDS

make_base
ok "the base (storage: $driver)"
mapfile -t mounts < <(pip_settings)
build . "$image" "$folder/build.log"
ok "the image"
check_image
check_edit
check_apptainer
buildah rmi --prune > /dev/null # the image of the run before, if this one differs
echo "image: $(buildah images --format '{{.Size}}' "$image"); $SECONDS s in all; kept: $folder"
