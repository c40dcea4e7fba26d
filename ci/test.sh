#!/usr/bin/env bash
# The plugin's own tests, with style and types first. All arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
ci/setup.sh dev
.venv/bin/ruff check .
.venv/bin/mypy
# The longest first; a file's tests on one worker, as they share a cluster.
exec .venv/bin/pytest tests/end_to_end tests/contract tests/unit -n 4 --dist loadfile --no-loadscope-reorder "$@"
