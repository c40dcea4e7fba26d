"""Every manifest that the tool can emit, against copies that a person reviewed.

After a change that is meant: UPDATE_GOLDEN=1 pytest tests/unit/test_manifests.py, and review the diff.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import yaml

from pytest_vmscale.guest.keys import make_key, public_half
from pytest_vmscale.manifests.core import fleet_labels, namespace
from pytest_vmscale.manifests.kubevirt import virtual_machine
from pytest_vmscale.model import Guest
from pytest_vmscale.settings import GuestImage, Site

GOLDEN = Path(__file__).parent / "golden"
SITE = Site.model_validate(
    {
        "guests": {"plain": {"container_disk": "quay.io/containerdisks/fedora:41", "cloud_init": False}},
        "cpu_model": "host-passthrough",
        "storage": {"class": None},
    }
)


def vm(os_name: str, site: Site) -> dict:
    image: GuestImage = site.known_guests()[os_name]
    key = "ssh-ed25519 AAAAexample run"
    return virtual_machine(Guest("vmscale-r1-0", f"{os_name}-00007", os_name, 7), image, site, "r1", "main", "cloud-user", key)


MANIFESTS = {
    "namespace": lambda: namespace("vmscale-r1-0", fleet_labels("r1", "main")),
    "vm-rhel": lambda: vm("rhel", Site()),
    "vm-windows": lambda: vm("windows", Site()),
    "vm-fedora": lambda: vm("fedora", Site()),
    "vm-of-a-site": lambda: vm("plain", SITE),
    "vm-default-storage-class": lambda: vm("rhel", SITE),
}


@pytest.mark.parametrize("name", MANIFESTS)
def test_manifest_is_as_reviewed(name):
    path = GOLDEN / f"{name}.yaml"
    rendered = yaml.safe_dump(json.loads(json.dumps(MANIFESTS[name]())), sort_keys=False, width=160)
    if os.environ.get("UPDATE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(rendered)
    assert rendered == path.read_text()


def test_a_runs_key_is_private_and_its_public_half_goes_into_the_guest(tmp_path: Path):
    path = tmp_path / "key"
    public = make_key(path, "run-1")
    assert path.stat().st_mode & 0o777 == 0o600
    assert public.startswith("ssh-ed25519 ") and public.endswith(" run-1")
    assert public_half(path).split()[:2] == public.split()[:2]
    with pytest.raises(ValueError, match="SSH key /nope"):
        public_half(Path("/nope"))
