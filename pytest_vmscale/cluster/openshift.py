"""What the `oc` program does: `oc adm inspect`, for the people who look into a failure, and `oc adm upgrade`. Nothing here is ever timed."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from .access import ClusterError

INSPECT_WALL_SECONDS = 600.0
UPGRADE_WALL_SECONDS = 120.0


def inspect_namespaces(kubeconfig: Path | None, context: str | None, namespaces: Sequence[str], folder: Path) -> str:
    """Have `oc adm inspect` write the namespaces' objects, events and logs below the folder. Returns one line on what came of
    it; never raises for what goes wrong with `oc`, since there is a failure to be reported already."""
    program = shutil.which("oc")
    if program is None:
        return "oc adm inspect: there is no oc on the PATH, so nothing was gathered"
    import openshift_client as oc

    words = ["inspect", *(f"ns/{name}" for name in namespaces), f"--dest-dir={folder}"]
    words += [f"--kubeconfig={kubeconfig}"] if kubeconfig else []
    words += [f"--context={context}"] if context else []
    try:
        with oc.client_path(program), oc.timeout(INSPECT_WALL_SECONDS):
            done = oc.invoke("adm", words, no_namespace=True, auto_raise=False)
        status, said = done.status(), f"{done.err()} {done.out()}"
    except Exception as error:  # openshift_client raises its own, and whatever subprocess does
        status, said = -1, str(error)
    if status:
        return f"oc adm inspect: failed ({status}): {' '.join(said.split())[:200]}"
    return f"oc adm inspect: {len(namespaces)} namespaces in {folder}"


def adm_upgrade(kubeconfig: Path | None, context: str | None, words: Sequence[str]) -> str | None:
    """Have `oc adm upgrade` do this. None if there is no oc on the PATH, else what it said; ClusterError if it failed."""
    program = shutil.which("oc")
    if program is None:
        return None
    import openshift_client as oc

    words = ["upgrade", *words]
    words += [f"--kubeconfig={kubeconfig}"] if kubeconfig else []
    words += [f"--context={context}"] if context else []
    with oc.client_path(program), oc.timeout(UPGRADE_WALL_SECONDS):
        done = oc.invoke("adm", words, no_namespace=True, auto_raise=False)
    said = " ".join(f"{done.out()} {done.err()}".split())
    if done.status():
        raise ClusterError(f"oc adm upgrade failed ({done.status()}): {said[:300]}")
    return said
