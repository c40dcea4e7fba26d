"""What the `oc` program does: `oc adm inspect`, for the people who look into a failure, and `oc adm upgrade`. Nothing here is ever timed."""

from __future__ import annotations

import io
import shutil
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .access import ClusterError

INSPECT_WALL_SECONDS = 600.0
UPGRADE_WALL_SECONDS = 120.0
PACKED_AT_MOST_BYTES = 50_000_000  # before compression: what a report carries for everybody who opens it


@dataclass(frozen=True)
class Inspection:
    """What came of `oc adm inspect`: a line for the terminal, all that oc complained of, and what it wrote as one file."""

    line: str
    complaint: str = ""
    archive: Path | None = None


def inspect_namespaces(kubeconfig: Path | None, context: str | None, namespaces: Sequence[str], folder: Path) -> Inspection:
    """Have `oc adm inspect` write the namespaces' objects, events and logs below the folder, and pack them beside it. Never raises
    for what goes wrong with `oc`, since there is a failure to be reported already: it has often written a part."""
    program = shutil.which("oc")
    if program is None:
        return Inspection("oc adm inspect: there is no oc on the PATH, so nothing was gathered")
    import openshift_client as oc

    words = ["inspect", *(f"ns/{name}" for name in namespaces), f"--dest-dir={folder}"]
    words += [f"--kubeconfig={kubeconfig}"] if kubeconfig else []
    words += [f"--context={context}"] if context else []
    try:
        with oc.client_path(program), oc.timeout(INSPECT_WALL_SECONDS):
            done = oc.invoke("adm", words, no_namespace=True, auto_raise=False)
        status, said = done.status(), f"{done.err()}\n{done.out()}".strip()
    except Exception as error:  # openshift_client raises its own, and whatever subprocess does
        status, said = -1, str(error)
    archive = pack(folder, folder.with_name(f"{folder.name}.tar.gz"))
    if status:
        return Inspection(f"oc adm inspect: failed ({status}): {' '.join(said.split())[:200]}", said, archive)
    return Inspection(f"oc adm inspect: {len(namespaces)} namespaces in {folder}", "", archive)


def pack(folder: Path, archive: Path) -> Path | None:
    """A .tar.gz of a folder's files, the small ones first, as many as PACKED_AT_MOST_BYTES hold; what is left out is named in it.
    None if there are none, or if they cannot be read or written."""
    total, left_out = 0, []
    try:
        sized = sorted((path.stat().st_size, path) for path in folder.rglob("*") if path.is_file())
        if not sized:
            return None
        with tarfile.open(archive, "w:gz") as packed:
            for size, path in sized:
                total += size
                name = str(path.relative_to(folder.parent))
                if total > PACKED_AT_MOST_BYTES:
                    left_out.append(f"{name} ({size} bytes)\n")
                else:
                    packed.add(path, name)
            if left_out:
                told = "".join(left_out).encode()
                entry = tarfile.TarInfo(f"{folder.name}/LEFT-OUT.txt")
                entry.size = len(told)
                packed.addfile(entry, io.BytesIO(told))
    except OSError:
        archive.unlink(missing_ok=True)
        return None
    return archive


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
