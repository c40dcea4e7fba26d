#!/usr/bin/env bash
# After ci/run.sh, whatever came of it: each run's report as one page (report.html) and as a message (summary.md), beside its verdict.json; and the
# Allure report (allure-report/index.html) where there is npx to make it with.
set -euo pipefail
cd "$(dirname "$0")/.."
artifacts=${ARTIFACT_DIR:-artifacts}
for verdict in "$artifacts"/vmscale-results/*/verdict.json; do
  if [ ! -e "$verdict" ]; then
    echo "$artifacts has no run that came to a verdict"
    break
  fi
  run=$(dirname "$verdict")
  .venv/bin/vmscale report "$run" -o "$run/report.html"
  .venv/bin/vmscale report "$run" --markdown | tee "$run/summary.md"
done
if command -v npx > /dev/null && compgen -G "$artifacts/allure-results/*-result.json" > /dev/null; then
  ci/allure-report "$artifacts/allure-results" "$artifacts/allure-report" >&2 || echo "no Allure report was made" >&2
fi
