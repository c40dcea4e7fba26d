#!/usr/bin/env bash
# Makes the virtual environment .venv with the plugin (and, with "dev", what its own tests need). Does it once.
set -euo pipefail
cd "$(dirname "$0")/.."
extras=${1:+[$1]}
stamp=".venv/.installed${1:+-$1}"
if [ ! -e "$stamp" ] || [ pyproject.toml -nt "$stamp" ]; then
  "${PYTHON:-python3}" -m venv .venv
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --upgrade pip
  .venv/bin/python -m pip install --quiet --disable-pip-version-check -e ".$extras"
  touch "$stamp"
fi
