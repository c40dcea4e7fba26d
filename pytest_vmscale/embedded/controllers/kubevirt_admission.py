"""What virt-api's webhooks refuse, and in which words."""

from __future__ import annotations

from collections.abc import Callable

from ..api.auth import Action, Authorizer, service_account_user
from ..api.errors import ApiError, Cause, details
from ..api.resources import Resources
from ..api.store import Object
from .common import condition
from .kubevirt_client import is_final, phase_of
from .kubevirt_migration import FINAL, FINALIZER, VMI_NAME

STRATEGIES = ("Halted", "Manual", "Always", "RerunOnFailure", "Once")
VM_WEBHOOK = "virtualmachine-validator.kubevirt.io"
MIGRATION_WEBHOOK, MIGRATION_UPDATE_WEBHOOK = "migration-create-validator.kubevirt.io", "migration-update-validator.kubevirt.io"


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


def admit_clones(resources: Resources, authorizer: Authorizer) -> Callable[[Object, Object | None], None]:
    """A VM may clone what its namespace's ServiceAccount may: to create datavolumes/source where the source is, or pods (and, of a
    snapshot, claims)."""
    data_sources = resources.kind("datasources.cdi.kubevirt.io")

    def source_of(template: Object, namespace: str) -> tuple[str, str, str] | None:
        """The kind, namespace and name of what is cloned."""
        spec = template.get("spec") or {}
        source = spec.get("source") or {}
        reference = spec.get("sourceRef") or {}
        if reference.get("kind") == "DataSource":
            found = resources.find(data_sources, reference.get("namespace") or namespace, reference.get("name", ""))
            source = ((found or {}).get("spec") or {}).get("source") or {}
        for kind in ("pvc", "snapshot"):
            if source.get(kind):
                return kind, source[kind].get("namespace") or namespace, source[kind].get("name", "")
        return None

    def admit(vm: Object, old: Object | None) -> None:
        spec, namespace = vm.get("spec") or {}, vm["metadata"]["namespace"]
        templates = spec.get("dataVolumeTemplates") or ()
        if "deletionTimestamp" in vm["metadata"] or (old and (old.get("spec") or {}).get("dataVolumeTemplates") == templates):
            return
        volumes = ((spec.get("template") or {}).get("spec") or {}).get("volumes") or ()
        account = next((volume["serviceAccount"]["serviceAccountName"] for volume in volumes if volume.get("serviceAccount")), "default")
        user = service_account_user(namespace, account)
        for number, template in enumerate(templates):
            found = source_of(template, namespace)
            if found is None or found[1] == namespace:
                continue
            kind, where, name = found
            explicit = Action("create", "cdi.kubevirt.io", "datavolumes", "source", where, name)
            implicit = [Action("create", "", plural, "", where, name) for plural in ("pods", "pvcs")[: 2 if kind == "snapshot" else 1]]
            if not authorizer.allows(user, explicit) and not all(authorizer.allows(user, each) for each in implicit):
                message = f"Authorization failed, message is: User {user.name} has insufficient permissions in clone source namespace {where}"
                raise denied(VM_WEBHOOK, [Cause(f"spec.dataVolumeTemplates[{number}]", message)])

    return admit


def admit_migration(resources: Resources) -> Callable[[Object, Object | None], None]:
    """What virt-api adds to new migrations, and which it refuses."""
    migrations, vmis = resources.kind("virtualmachineinstancemigrations.kubevirt.io"), resources.kind("virtualmachineinstances.kubevirt.io")

    def refused(message: str) -> ApiError:
        return ApiError(400, f'admission webhook "{MIGRATION_WEBHOOK}" denied the request: {message}', "")

    def create(migration: Object) -> None:
        meta, name = migration["metadata"], migration["spec"].get("vmiName") or ""
        namespace = meta["namespace"]
        if not name:
            raise denied(MIGRATION_WEBHOOK, [Cause("spec.vmiName", "vmiName is missing", "FieldValueRequired")])
        if "priority" in migration["spec"]:
            raise denied(MIGRATION_WEBHOOK, [Cause("spec.migrationPriority", "Migration priority queue, only virt-controller is allowed to set priority field",
                                                   "FieldValueForbidden")])
        vmi = resources.find(vmis, namespace, name)
        if vmi is None:
            raise refused(f'the VMI "{namespace}/{name}" does not exist')
        if is_final(vmi):
            raise refused("Cannot migrate VMI in finalized state.")
        migratable = condition(vmi.get("status", {}).get("conditions") or (), "LiveMigratable")
        if migratable is not None and migratable["status"] == "False":
            raise refused(f"Cannot migrate VMI, Reason: {migratable.get('reason', '')}, Message: {migratable.get('message', '')}")
        for entry in resources.store.entries(migrations, namespace):
            if entry.labels.get(VMI_NAME) == name and phase_of(entry.obj) not in FINAL:
                raise refused(f"in-flight migration detected. Active migration job ({entry.obj['metadata']['uid']}) is currently already in progress "
                              f"for VMI {name}.")
        meta.setdefault("labels", {})[VMI_NAME] = name
        meta["finalizers"] = [*(meta.get("finalizers") or ()), FINALIZER]

    def admit(migration: Object, old: Object | None) -> None:
        if old is None:
            create(migration)
        elif migration["spec"] != old["spec"]:
            raise denied(MIGRATION_UPDATE_WEBHOOK, [Cause("", "update of Migration object's spec is restricted", "FieldValueNotSupported")])
        elif phase_of(old) not in FINAL and VMI_NAME in (labels := old["metadata"].get("labels") or {}):
            new = migration["metadata"].get("labels")
            if not new or new.get(VMI_NAME) != labels[VMI_NAME]:
                verb = "modified on" if new else "removed from"
                raise denied(MIGRATION_UPDATE_WEBHOOK, [Cause("", f"selector label can't be {verb} an in-flight migration", "FieldValueNotSupported")])

    return admit
