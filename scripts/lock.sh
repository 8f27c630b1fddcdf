#!/bin/sh
# Write constraints.txt: the versions that pip chooses in a new environment for pyproject.toml.
# Requirements given as arguments narrow the choice: scripts/lock.sh torch==2.11.0 torchvision==0.26.0
set -eu
cd "$(dirname "$0")/.."
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --editable '.[dev,bench,quality,test-demo]' "$@"
echo "# Exact versions that the tests ran with; made by scripts/lock.sh. Install with pip's --constraint." > "$folder/lock"
"$folder/venv/bin/pip" freeze --exclude-editable >> "$folder/lock"
mv "$folder/lock" constraints.txt
