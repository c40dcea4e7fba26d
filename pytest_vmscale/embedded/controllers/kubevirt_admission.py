"""What virt-api's webhooks refuse, and in which words."""

from __future__ import annotations

from ..api.errors import ApiError, Cause, details
from ..api.store import Object

STRATEGIES = ("Halted", "Manual", "Always", "RerunOnFailure", "Once")
VM_WEBHOOK, MIGRATION_WEBHOOK = "virtualmachine-validator.kubevirt.io", "migration-create-validator.kubevirt.io"


def denied(webhook: str, causes: list[Cause]) -> ApiError:
    """422, as an admission webhook's refusal arrives at the client."""
    message = causes[0].message
    if len(causes) > 1:
        message += f", more errors: [{', '.join(cause.message for cause in causes[1:])}]"
    return ApiError(422, f'admission webhook "{webhook}" denied the request: {message}', "Invalid", details("", "", causes=causes))


def admit_vm(vm: Object, old: Object | None) -> None:
    """Raise ApiError for a VM that virt-api would refuse. An object on its way out may always change."""
    if "deletionTimestamp" in vm["metadata"]:
        return
    spec = vm.get("spec") or {}
    causes = [*_strategy(spec), *_volumes(spec)]
    if causes:
        raise denied(VM_WEBHOOK, causes)


def _strategy(spec: Object) -> list[Cause]:
    running, strategy = spec.get("running"), spec.get("runStrategy")
    if running is not None and strategy is not None:
        return [Cause("spec.running", "Running and RunStrategy are mutually exclusive. Note that Running is deprecated, please use RunStrategy instead")]
    if running is None and strategy is None:
        return [Cause("spec.running", "One of Running or RunStrategy must be specified")]
    if strategy is not None and strategy not in STRATEGIES:
        return [Cause("spec.runStrategy", f"Invalid RunStrategy ({strategy})")]
    return []


def _volumes(spec: Object) -> list[Cause]:
    causes = []
    template = (spec.get("template") or {}).get("spec") or {}
    volumes = template.get("volumes") or []
    names = [volume.get("name") for volume in volumes]
    base = "spec.template.spec"
    for number, name in enumerate(names):
        if name in names[:number]:
            causes.append(Cause(f"{base}.volumes[{number}].name", f"{base}.volumes[{number}] and {base}.volumes[{names.index(name)}] must not have the same Name."))
    devices = (template.get("domain") or {}).get("devices") or {}
    for number, disk in enumerate(devices.get("disks") or ()):
        if disk.get("name") not in names:
            causes.append(Cause(f"{base}.domain.devices.disks[{number}].name", f"{base}.domain.devices.disks[{number}].Name '{disk.get('name')}' not found."))
    networks = [network.get("name") for network in template.get("networks") or ()]
    for number, interface in enumerate(devices.get("interfaces") or ()):
        if networks and interface.get("name") not in networks:
            causes.append(Cause(f"{base}.domain.devices.interfaces[{number}].name",
                                f"{base}.domain.devices.interfaces[{number}].name '{interface.get('name')}' not found."))
    used = [volume["dataVolume"].get("name") for volume in volumes if "dataVolume" in volume]
    used += [volume["persistentVolumeClaim"].get("claimName") for volume in volumes if "persistentVolumeClaim" in volume]
    for number, data_volume in enumerate(spec.get("dataVolumeTemplates") or ()):
        field = f"spec.dataVolumeTemplate[{number}]"
        name = (data_volume.get("metadata") or {}).get("name")
        if not name:
            causes.append(Cause(field, "'name' field must not be empty for DataVolumeTemplate entry " + field + "."))
        elif name not in used:
            causes.append(Cause(field, f"DataVolumeTemplate entry {field} must be referenced in the VMI template's 'volumes' list"))
    return causes
