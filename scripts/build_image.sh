#!/bin/sh
# Build both targets of the Dockerfile where there is neither Docker nor a registry of images, and run them as user 1000.
# The base is made of Debian's packages, in place of python:3.11-slim. As root, with Debian's buildah and debootstrap:
#
#   scripts/build_image.sh [OPTION of buildah build]...
#
# The options are for machines that reach PyPI in their own way: --volume /etc/pip.conf:/etc/pip.conf:ro. PYTEST is what pytest is
# given. It takes half an hour and 25 GB of disk, because each image and container of this storage is a copy. The image `glow` stays.
set -eu
cd "$(dirname "$0")/.."
dir=$(mktemp -d /tmp/glow-image.XXXX)
container=
start=$(date +%s)
b() { buildah --storage-driver vfs "$@"; }
say() { echo "$(($(date +%s) - start)) s  $*"; }
trap 'set +e; rm -rf "$dir"; b rm $container >/dev/null 2>&1; b rmi glow-base glow-test >/dev/null 2>&1' EXIT
trap 'exit 1' INT TERM

container=$(b from scratch)
debootstrap --variant=minbase --include=python-is-python3,python3-pip,python3-venv,python3-dev bookworm "$(b mount "$container")" >"$dir/log"
b config --env PIP_BREAK_SYSTEM_PACKAGES=1 "$container"
b commit --quiet --rm "$container" glow-base >/dev/null
say base

make_container() { # TARGET IMAGE OPTION...: builds the image, and a container of it
    target=$1 image=$2
    shift 2
    # With layers, every instruction would be a copy of the whole.
    b build --isolation chroot --layers=false --build-arg BASE=localhost/glow-base --target "$target" --tag "$image" "$@" . >"$dir/log" 2>&1 ||
        { tail -n 40 "$dir/log"; exit 1; }
    say "$(b images --format '{{.Name}} {{.Size}}' "$image")"
    container=$(b from "localhost/$image")
}
run() { b run --isolation chroot "$@"; }

# The tests first: their build needs the most disk.
make_container test glow-test "$@"
run "$container" -- pytest ${PYTEST:--n 2 --dist worksteal}
say "tests passed"
b rm "$container" >/dev/null
b rmi glow-test >/dev/null

make_container glow glow "$@"
run "$container" -- sh -ec 'id; for path in .git .venv outputs/* data/*; do [ ! -e "$path" ]; done'
mkdir "$dir/outputs" "$dir/data"
chown 1000 "$dir/outputs" "$dir/data"
for command in "touch data/written" "python train.py debug=fast" "python train.py debug=fast compile=true" "python sample.py ckpt=mnist"; do
    say "$command"
    run --volume "$dir/outputs:/glow/outputs" --volume "$dir/data:/glow/data" "$container" -- $command
done
find "$dir/outputs" "$dir/data" -type f -printf '%U %P\n' | sort
say OK
