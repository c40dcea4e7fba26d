"""vmscale.yaml: what belongs to a site, and the reference's fleet, which it adds to."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from .quantity import amount


def _written_as(pattern: str, wanted: str) -> AfterValidator:
    """Text of this form; `wanted` says to people what the pattern says."""

    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(f"must be {wanted}, not {text!r}")
        return text

    return AfterValidator(check)


def _as_text(value: object) -> object:
    """A number of CPUs or bytes needs no quotes, as in Kubernetes."""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


QUANTITY = r"\d+(\.\d+)?(m|[kMGTP]|[KMGTP]i)?"
LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
NAMESPACED = rf"{LABEL}/[a-z0-9]([-a-z0-9.]*[a-z0-9])?"
Quantity = Annotated[str, BeforeValidator(_as_text), _written_as(QUANTITY, "a quantity, such as 40Gi, 4G or 500m")]
NamespacedName = Annotated[str, _written_as(NAMESPACED, "NAMESPACE/NAME")]
Network = Annotated[str, _written_as(rf"pod|{NAMESPACED}", "NAMESPACE/NAME of a NetworkAttachmentDefinition, or pod")]
ObjectName = Annotated[str, _written_as(LABEL, "a name of lower-case letters, digits and dashes")]
SshVia = Literal["direct", "jump", "port-forward"]
SAMPLES_NEEDED = 300  # I/Os, fewer of which say nothing of a mean


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Ready(_Strict):
    """When a guest of this OS counts as booted: its sshd sends its banner, or a TCP port accepts."""

    ssh: bool = True
    tcp: Annotated[int, Field(ge=1, le=65535)] | None = None


class GoldenImage(_Strict):
    """Where the image comes from that the VMs' disks are clones of. Exactly one source: one to import (http, registry, s3), which
    a run imports once and later runs use again, or one that is there (pvc, volume_snapshot, data_source)."""

    http: Annotated[str, _written_as(r"https?://.+", "an address that begins with https:// or http://")] | None = None
    registry: Annotated[str, _written_as(r"(docker|oci-archive)://.+", "an image that begins with docker:// or oci-archive://")] | None = (
        None
    )
    s3: Annotated[str, _written_as(r"(https?|s3)://.+", "an address that begins with https://, http:// or s3://")] | None = None
    pvc: NamespacedName | None = None
    volume_snapshot: NamespacedName | None = None
    data_source: NamespacedName | None = None
    secret: str | None = None  # beside the image: accessKeyId and secretKey
    cert_config_map: str | None = None  # beside the image: the server's CA
    namespace: ObjectName = "default"  # to import to; it must be there
    size: Quantity | None = None  # of the image's disk (default: the guests' disk_size)

    @model_validator(mode="after")
    def _one_source(self) -> GoldenImage:
        known = ("http", "registry", "s3", "pvc", "volume_snapshot", "data_source")
        if sum(getattr(self, name) is not None for name in known) != 1:
            raise ValueError(f"golden needs exactly one of {', '.join(known)}")
        if not self.imported and (self.secret or self.cert_config_map or self.size):
            raise ValueError("golden: secret, cert_config_map and size are for an image that is imported (http, registry, s3)")
        return self

    @property
    def imported(self) -> bool:
        return bool(self.http or self.registry or self.s3)


class GuestImage(_Strict):
    """One OS of the fleet: what its VMs are made of. Exactly one of `golden`, `source_pvc` (short for golden: {pvc: ...}) and
    `container_disk`."""

    golden: GoldenImage | None = None
    source_pvc: NamespacedName | None = None
    container_disk: str | None = None
    disk_size: Quantity = "40Gi"
    cpu: Quantity = "1"
    cpu_limit: Quantity | None = None
    cpu_model: str | None = None  # default: the site's
    memory: Quantity = "4G"
    family: Literal["linux", "windows"] = "linux"
    eviction_strategy: Literal["None", "LiveMigrate", "LiveMigrateIfPossible", "External"] = "LiveMigrate"
    network: Network = "pod"
    termination_grace_period_seconds: Annotated[int, Field(ge=0)] = 60
    multiqueue: bool = True  # of the network interface; Linux only
    rng: bool = True  # Linux only
    annotations: dict[str, str] = {}  # of the VMIs
    cloud_init: bool = True
    ssh_user: str | None = None
    ready: Ready = Ready()

    @field_validator("ready", mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        """`ready: ssh` for `ready: {ssh: true}`; `ready: {tcp: 3389}` turns SSH off."""
        if value == "ssh":
            return {"ssh": True}
        if not isinstance(value, dict | Ready):
            raise ValueError(f"must be ssh or {{tcp: PORT}}, not {value!r}")
        if isinstance(value, dict) and value.get("tcp") and "ssh" not in value:
            return {**value, "ssh": False}
        return value

    @model_validator(mode="after")
    def _one_disk(self) -> GuestImage:
        if [self.golden, self.source_pvc, self.container_disk].count(None) != 2:
            raise ValueError("give exactly one of golden, source_pvc and container_disk")
        if self.ready.ssh == (self.ready.tcp is not None):
            raise ValueError("ready must be either ssh, or {tcp: PORT}")
        return self

    @property
    def image(self) -> GoldenImage | None:
        """What the disks are cloned from; None for container disks."""
        return GoldenImage(pvc=self.source_pvc) if self.source_pvc else self.golden


class JumpHost(_Strict):
    """An SSH server from which the guests' addresses are reachable."""

    host: str
    port: Annotated[int, Field(ge=1, le=65535)] = 22
    user: str
    key: Path
    known_hosts: Path | None = None  # without it the host's key is not checked


class Ssh(_Strict):
    """How guests are reached. Without `key` the run makes a key pair of its own and gives it to cloud-init."""

    user: str = "cloud-user"
    key: Path | None = None
    port: Annotated[int, Field(ge=1, le=65535)] = 22
    via: SshVia = "direct"
    jump_host: JumpHost | None = None


class Storage(_Strict):
    """What the VMs' disks are made from."""

    storage_class: str | None = Field("ocs-external-storagecluster-ceph-rbd", alias="class")
    access_mode: Literal["ReadWriteMany", "ReadWriteOnce"] | None = None  # None: the class' StorageProfile says
    volume_mode: Literal["Block", "Filesystem"] | None = None


class Fio(_Strict):
    """The latency suite's I/O. The defaults are the reference's, where it says them; it prints 20 MiB a file, which does not fit its own
    disk, and 4.8 GiB in all, which 2 MiB a file gives."""

    directories: Annotated[int, Field(ge=1)] = 300
    files_per_directory: Annotated[int, Field(ge=1)] = 8
    file_size: Annotated[str, _written_as(r"[1-9]\d*(Ki|Mi|Gi)", "a size in Ki, Mi or Gi, such as 2Mi")] = "2Mi"
    block_size: Annotated[int, Field(ge=512, multiple_of=512)] = 4096
    engine: Annotated[str, _written_as(r"[a-z0-9_]+", "a name of lower-case letters, digits and _")] = "libaio"
    depth: Annotated[int, Field(ge=1)] = 1
    ramp_seconds: Annotated[int, Field(ge=0)] = 10
    baseline_iops: Annotated[int, Field(ge=1)] = 1
    baseline_seconds: Annotated[int, Field(ge=1)] = 310
    workload_iops: Annotated[int, Field(ge=1)] = 1000
    workload_seconds: Annotated[int, Field(ge=1)] = 60
    connections: Annotated[int, Field(ge=1, le=256)] = 16

    @model_validator(mode="after")
    def _enough(self) -> Fio:
        for load, count in (
            ("baseline", self.baseline_iops * self.baseline_seconds),
            ("workload", self.workload_iops * self.workload_seconds),
        ):
            if count < SAMPLES_NEEDED:
                raise ValueError(f"{load}_iops * {load}_seconds is {count} I/Os: fewer than {SAMPLES_NEEDED} say nothing of a mean")
        return self

    @property
    def file_bytes(self) -> int:
        return int(amount(self.file_size))

    @property
    def dataset_bytes(self) -> int:
        return self.directories * self.files_per_directory * self.file_bytes

    @property
    def point_seconds(self) -> int:
        """How long the four runs of one point take, with their ramps."""
        return 2 * (self.baseline_seconds + self.workload_seconds) + 4 * self.ramp_seconds


# The reference's fleet: sections "RHEL VM", "Windows 10 VM" and "Fedora VM" of its appendix.
REFERENCE_GUESTS: dict[str, GuestImage] = {
    "rhel": GuestImage(source_pvc="default/rhel-dv", network="default/linux-bridge", cpu_model="host-passthrough"),
    "windows": GuestImage(
        source_pvc="default/win10-dv",
        network="default/linux-bridge",
        family="windows",
        cpu_model="host-passthrough",
        cloud_init=False,
        termination_grace_period_seconds=0,
        ssh_user="Administrator",
    ),
    "fedora": GuestImage(
        container_disk="quay.io/kubevirt/fedora-container-disk-images:35",
        cpu="100m",
        cpu_limit="100m",
        memory="256Mi",
        multiqueue=False,
        rng=False,
        annotations={"descheduler.alpha.kubernetes.io/evict": "true"},
        eviction_strategy="None",
        termination_grace_period_seconds=0,
        ssh_user="fedora",
    ),
}


class Site(_Strict):
    """vmscale.yaml. `guests` adds to the reference's three, or replaces one of them whole."""

    guests: dict[Annotated[str, _written_as(r"[a-z][a-z0-9]{0,20}", "a short name of lower-case letters and digits")], GuestImage] = {}
    storage: Storage = Storage.model_validate({})
    ssh: Ssh = Ssh()
    machine_type: str = "q35"
    cpu_model: str | None = None
    zones: list[ObjectName] = []
    fio: Fio = Fio()

    def known_guests(self) -> dict[str, GuestImage]:
        return {**REFERENCE_GUESTS, **self.guests}
