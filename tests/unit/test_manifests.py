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
from pytest_vmscale.manifests.cdi import golden_image, golden_name
from pytest_vmscale.manifests.core import fleet_labels, namespace
from pytest_vmscale.manifests.kubevirt import cloud_init_secret, virtual_machine
from pytest_vmscale.manifests.placement import ANYWHERE, Placement
from pytest_vmscale.model import Guest
from pytest_vmscale.site import GuestImage, Site

GOLDEN = Path(__file__).parent / "golden"
SITE = Site.model_validate(
    {
        "guests": {
            "plain": {"container_disk": "quay.io/containerdisks/fedora:41", "cloud_init": False},
            "snapped": {"golden": {"volume_snapshot": "images/rhel9-snap"}},
            "sourced": {"golden": {"data_source": "openshift-virtualization-os-images/rhel9"}},
            "http": {"golden": {"http": "https://images.example.com/rhel9.qcow2", "cert_config_map": "ca"}},
            "registry": {"golden": {"registry": "docker://registry.example.com/rhel9:9.4", "size": "30Gi"}},
            "s3": {"golden": {"s3": "https://s3.example.com/images/rhel9.qcow2", "secret": "s3-reader", "namespace": "images"}},
        },
        "cpu_model": "host-passthrough",
        "storage": {"class": None},
    }
)

LITERAL = Site.model_validate(
    {
        "guests": {"http": {"golden": {"http": "http://internal.server.com/ISO/rhel8.qcow2"}}},
        "storage": {"access_mode": "ReadWriteMany", "volume_mode": "Block"},
    }
)


def golden(os_name: str, site: Site = SITE) -> dict:
    image = site.known_guests()[os_name]
    assert image.image
    return golden_image(os_name, image, image.image, site.storage)


def vm(os_name: str, site: Site, placement: Placement = ANYWHERE) -> dict:
    image: GuestImage = site.known_guests()[os_name]
    return virtual_machine(Guest("vmscale-r1-0", f"{os_name}-00007", os_name, 7), image, site, "r1", "main", placement)


MANIFESTS = {
    "namespace": lambda: namespace("vmscale-r1-0", fleet_labels("r1", "main")),
    "vm-rhel": lambda: vm("rhel", Site()),
    "vm-windows": lambda: vm("windows", Site()),
    "vm-fedora": lambda: vm("fedora", Site()),
    "vm-of-a-site": lambda: vm("plain", SITE),
    "vm-default-storage-class": lambda: vm("rhel", SITE),
    "vm-literal-claim": lambda: vm("rhel", LITERAL),
    "vm-of-a-snapshot": lambda: vm("snapped", SITE),
    "vm-of-a-data-source": lambda: vm("sourced", SITE),
    "vm-on-a-node": lambda: vm("fedora", Site(), Placement.on_nodes(("worker-000", "worker-001"), 5)),
    "vm-where-open": lambda: vm("fedora", Site(), Placement.where_open("vmscale.io/closed")),
    "vm-spread": lambda: vm("fedora", Site(), Placement.spread()),
    "secret-cloud-init": lambda: cloud_init_secret("vmscale-r1-0", "rhel", "r1", "main", "cloud-user", "ssh-ed25519 AAAAexample run"),
    "golden-http": lambda: golden("http"),
    "golden-registry": lambda: golden("registry"),
    "golden-s3": lambda: golden("s3"),
    "golden-literal-claim": lambda: golden("http", LITERAL),
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


def test_no_manifest_of_a_vm_has_a_credential_in_it():
    for name, manifest in MANIFESTS.items():
        if name.startswith("vm-"):
            text = json.dumps(manifest())
            assert "ssh-" not in text and "password" not in text and "userData" not in text, name


def test_another_source_is_another_image_and_the_same_one_is_used_again():
    def name(**changes: str) -> str:
        site = Site.model_validate({"guests": {"mine": {"golden": {"http": "http://images/rhel.qcow2", **changes}}}})
        image = site.known_guests()["mine"]
        assert image.image
        return golden_name("mine", image, image.image, site.storage)[1]

    assert name() == name()
    assert len({name(), name(http="http://images/other.qcow2"), name(size="20Gi"), name(secret="reader")}) == 4


def test_vms_fill_one_node_after_the_other():
    placement = Placement.on_nodes(("a", "b", "c"), 2)
    hosts = [placement.of(index, {})["nodeSelector"]["kubernetes.io/hostname"] for index in range(6)]
    assert hosts == ["a", "a", "b", "b", "c", "c"]
    with pytest.raises(ValueError, match="VM 6 has no place"):
        placement.of(6, {})
    with pytest.raises(ValueError, match="no placement"):
        Placement.on_nodes((), 2)
    assert ANYWHERE.of(5, {}) == {}
