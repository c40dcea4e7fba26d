#!/bin/bash
# A step of the step registry: KUBECONFIG, SHARED_DIR and ARTIFACT_DIR come from ci-operator, VMSCALE_* from the step's env.
set -euo pipefail

home=${VMSCALE_HOME:-/opt/vmscale} # where ci/Containerfile puts it
options=(-m "${VMSCALE_SUITES}" --vms "${VMSCALE_VMS}")
if [[ -e "${SHARED_DIR}/vmscale.yaml" ]]; then
  options+=(--vmscale-config "${SHARED_DIR}/vmscale.yaml")
fi
if [[ -d "${SHARED_DIR}/vmscale-baseline" ]]; then
  options+=(--baseline "${SHARED_DIR}/vmscale-baseline")
fi
read -ra more <<<"${VMSCALE_OPTIONS}"

# A step that is to end gets SIGTERM: the run gets it too, and the time to clean up.
run="" ending=""
trap 'ending=yes; [[ -z "${run}" ]] || kill -TERM "${run}"' TERM
"${home}/ci/run.sh" "${options[@]}" "${more[@]}" &
run=$!
[[ -z "${ending}" ]] || kill -TERM "${run}"
status=0
wait "${run}" || status=$?
while kill -0 "${run}" 2>/dev/null; do # it was the signal that ended the wait
  status=0
  wait "${run}" || status=$?
done

"${home}/ci/reports.sh"
for page in "${ARTIFACT_DIR}"/vmscale-results/*/report.html; do
  if [[ -e "${page}" ]]; then
    cp "${page}" "${ARTIFACT_DIR}/custom-link-tools-vmscale.html" # which the job's page shows
  fi
done
exit "${status}"
