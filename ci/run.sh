#!/usr/bin/env bash
# Runs suites, as a pipeline does: ci/run.sh -m bootstorm --vms 1000. All arguments go to pytest.
# Leaves JUnit XML, Allure results, and the run's own files (verdict.json among them) in $ARTIFACT_DIR.
set -euo pipefail
cd "$(dirname "$0")/.."
ci/setup.sh
artifacts=${ARTIFACT_DIR:-artifacts}
mkdir -p "$artifacts"
exec .venv/bin/pytest --junitxml="$artifacts/junit.xml" --alluredir="$artifacts/allure-results" --results-dir="$artifacts/vmscale-results" "$@"
