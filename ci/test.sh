#!/usr/bin/env bash
# The plugin's own tests, with style and types first. All arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
ci/setup.sh dev
.venv/bin/ruff check .
.venv/bin/mypy
exec .venv/bin/pytest tests -n 3 --dist loadfile "$@"
