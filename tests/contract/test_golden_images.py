"""Golden images on a whole cluster: imported once, used again, refused where they cannot be cloned."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeVar

import pytest

from pytest_vmscale.clock import Clock
from pytest_vmscale.cluster.access import load_access
from pytest_vmscale.cluster.requests import Cluster
from pytest_vmscale.manifests.cdi import golden_image
from pytest_vmscale.procedures.golden import ImageError, Source, check_source, import_image
from pytest_vmscale.site import Site

T = TypeVar("T")
SPEED = 200.0
WFFC = "ocs-external-storagecluster-ceph-rbd-wffc"


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An embedded cluster; its first import gets a 404."""
    folder = str(tmp_path_factory.mktemp("embedded"))
    vmscale = [sys.executable, "-m", "pytest_vmscale.cli", "embedded"]
    up = subprocess.run(
        [*vmscale, "up", "--detach", "--state-dir", folder, "--workers", "3", "--speed", str(SPEED), "--fault", "import-not-found=1"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert up.returncode == 0, up.stderr
    yield up.stdout.strip().splitlines()[-1]
    subprocess.run([*vmscale, "down", "--state-dir", folder], timeout=60, check=True)


@pytest.fixture(scope="module")
def refused(embedded: str) -> str:
    """What the first import said."""
    manifest = image("http://images.example.com/gone.qcow2")
    with pytest.raises(ImageError) as error:
        on(embedded, lambda cluster: import_image(cluster, manifest, cluster.clock, deadline_seconds=3600))
    return str(error.value)


@pytest.fixture(scope="module")
def kubeconfig(embedded: str, refused: str) -> str:
    """The cluster, whose next imports succeed: whichever test is the first, alone, or on a worker of its own."""
    return embedded


def on(kubeconfig: str, work: Callable[[Cluster], Awaitable[T]]) -> T:
    async def run() -> T:
        async with Cluster(load_access(kubeconfig), Clock(SPEED)) as cluster:
            return await asyncio.wait_for(work(cluster), 60)

    return asyncio.run(run())


def image(url: str, storage_class: str | None = None) -> dict[str, Any]:
    storage = {"class": storage_class} if storage_class else {}
    site = Site.model_validate({"guests": {"mine": {"golden": {"http": url, "size": "5Gi"}}}, "storage": storage})
    guest = site.known_guests()["mine"]
    assert guest.image
    return golden_image("mine", guest, guest.image, site.storage)


def claim_of(manifest: dict[str, Any]) -> Source:
    return Source.pvc(manifest["metadata"]["namespace"], manifest["metadata"]["name"])


def test_an_import_that_fails_says_why_long_before_the_deadline(refused):
    assert re.search("cannot be imported .*404", refused)


@pytest.mark.parametrize("storage_class", [None, WFFC], ids=["immediate", "wait-for-first-consumer"])
def test_an_image_is_imported_once(kubeconfig, storage_class):
    manifest, told = image("http://images.example.com/rhel9.qcow2", storage_class), list[str]()

    async def work(cluster: Cluster) -> list[bool]:
        new = [await import_image(cluster, manifest, cluster.clock, deadline_seconds=3600, on_progress=told.append) for _ in range(2)]
        await check_source(cluster, claim_of(manifest))
        return new

    assert on(kubeconfig, work) == [True, False]
    assert any("%" in each for each in told), "its progress is told"


def test_a_data_volume_of_that_name_that_is_somebody_elses_is_not_used(kubeconfig):
    manifest = image("http://images.example.com/theirs.qcow2")
    theirs = {**manifest, "metadata": {"name": manifest["metadata"]["name"], "namespace": "default"}}

    async def work(cluster: Cluster) -> None:
        await cluster.create("/apis/cdi.kubevirt.io/v1beta1/namespaces/default/datavolumes", theirs)
        with pytest.raises(ImageError, match="is no image of ours"):
            await import_image(cluster, manifest, cluster.clock, deadline_seconds=3600)

    on(kubeconfig, work)


def test_a_source_in_use_is_refused(kubeconfig):
    """CDI does not clone a claim that a pod has mounted: a thousand clones would wait, and nobody would say for what."""
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "reader", "namespace": "default"},
        "spec": {
            "containers": [{"name": "c", "image": "registry.k8s.io/pause:3.9"}],
            "volumes": [{"name": "disk", "persistentVolumeClaim": {"claimName": "win10-dv"}}],
        },
    }

    async def work(cluster: Cluster) -> None:
        source = Source.pvc("default", "win10-dv")
        await check_source(cluster, source)
        await cluster.create("/api/v1/namespaces/default/pods", pod)
        with pytest.raises(ImageError, match="in use by pod reader"):
            await check_source(cluster, source)

    on(kubeconfig, work)


def test_a_data_source_is_as_good_as_what_it_points_to(kubeconfig):
    def data_source(name: str, claim: str) -> dict[str, Any]:
        source = {"pvc": {"name": claim, "namespace": "default"}}
        return {"apiVersion": "cdi.kubevirt.io/v1beta1", "kind": "DataSource", "metadata": {"name": name}, "spec": {"source": source}}

    async def work(cluster: Cluster) -> None:
        for name, claim in (("good", "rhel-dv"), ("bad", "nowhere")):
            await cluster.create("/apis/cdi.kubevirt.io/v1beta1/namespaces/default/datasources", data_source(name, claim))
        await check_source(cluster, Source.data_source("default", "good"))
        with pytest.raises(ImageError):
            await check_source(cluster, Source.data_source("default", "bad"))

    on(kubeconfig, work)


@pytest.mark.parametrize(
    "source", [Source.pvc("default", "none"), Source.volume_snapshot("default", "none"), Source.data_source("default", "none")], ids=str
)
def test_a_source_that_is_not_there_is_named(kubeconfig, source):
    with pytest.raises(ImageError, match=f"{source.kind} default/none is not there"):
        on(kubeconfig, lambda cluster: check_source(cluster, source))
