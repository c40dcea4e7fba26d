"""The command line: one group of options, ini twins for what a site sets once, and the Settings made of them."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest

    from .settings import Settings

# option, default, help. Those in INI_TWINS may be set in the ini file as vmscale_<name>. The help of what is for one suite alone begins with
# its name: where no test of it is selected, the run says that such an option is without effect.
OPTIONS: tuple[tuple[str, str | None, str], ...] = (
    (
        "--cluster",
        "auto",
        "auto, real or embedded: auto is a real cluster where one is named (--kubeconfig, KUBECONFIG, a pod's service account), else the embedded one",
    ),
    ("--kubeconfig", None, "kubeconfig of the cluster to test"),
    ("--context", None, "the kubeconfig's context to use (default: its current one)"),
    ("--vms", "100", "how many VMs, or a sweep: 100,500,1000 (latency has --nodes and --vms-per-node for it)"),
    (
        "--vm-mix",
        None,
        "VMs by OS: rhel=50%,fedora=30%,windows=20%, in percent or as counts (default: as the scenario's reference, mostly rhel=100%)",
    ),
    ("--vms-per-namespace", "100", "VMs in each namespace"),
    (
        "--bulk-size",
        None,
        "deployment: VMs that are asked for together, before the next; or a sweep of sizes: 10,50,100,all (all: all at once; default: 100, or all of fewer)",
    ),
    ("--deploy-until", "cloned", "deployment: follow each VM until its disk is cloned; or on, until it is running, or ssh answers"),
    ("--repeat", "1", "deployment: how often each bulk size is deployed, to tell a difference from noise"),
    (
        "--clone-strategy",
        "profile",
        "deployment: copy, snapshot or csi-clone, set in the storage class' StorageProfile and put back; or profile: what it says already",
    ),
    ("--nodes", "1,2,4,8,16,32,64", "latency: on how many nodes VMs do I/O; one measurement for each"),
    ("--vms-per-node", "15", "latency: VMs on each of those nodes"),
    ("--background-vms", "0", "latency: VMs that run and do nothing beside those measured"),
    ("--background-pods", "0", "latency: pods that run and do nothing beside them"),
    ("--zones", "3", "migration: zones to divide the workers into, where vmscale.yaml names none of the site's own"),
    ("--zone-max-unavailable", "10", "migration: nodes of a zone that may be away at once, as a number or in percent"),
    (
        "--migration-trigger",
        "machineconfig",
        "migration: what empties the zone: machineconfig (its pool drains and reboots its nodes), drain (cordon and evict through the API), or vmim (a migration is asked for each VM)",
    ),
    ("--migration-pods", None, "migration: idle pods beside the VMs in the zone, evicted with them (default: 7 for each VM; none with vmim)"),
    ("--parallel-migrations", "20", "migration: live migrations at once on the cluster, set in HyperConverged and put back"),
    ("--outbound-migrations", "4", "migration: live migrations at once from each node, set in HyperConverged and put back"),
    (
        "--upgrade-to",
        None,
        "upgrade: the version to upgrade to, or several in turn: 4.9.23,4.10.9 (default on the embedded cluster: that, the reference's)",
    ),
    (
        "--upgrade-channel",
        None,
        "upgrade: the channel to set before, or one for each version (default: unchanged where it offers the version, else candidate-4.10 for a hop to 4.10)",
    ),
    ("--upgrade-image", None, "upgrade: the release image instead of one that is offered, or one for each version; by digest"),
    ("--upgrade-load-share", "50", "upgrade: percent of the VMs in which fio runs meanwhile (4 KiB, 100 IOPS each)"),
    (
        "--vmscale-config",
        None,
        "what belongs to the site: images, storage, network, SSH (default: vmscale.yaml beside the ini file, if there is one)",
    ),
    ("--deadline", None, "give a measurement up after this much cluster time, e.g. 30m (default: from the scenario's limits; --plan tells)"),
    ("--provision-deadline", "4h", "give provisioning up after this much cluster time"),
    ("--ssh-interval", "2", "seconds of cluster time between two probes of a guest"),
    ("--ssh-via", None, "how guests are reached: direct, jump or port-forward (default: vmscale.yaml's ssh.via, else direct)"),
    ("--qps", None, "limit of requests per second, as client-go's (default: unlimited)"),
    ("--burst", None, "requests allowed at once above --qps (default: twice --qps)"),
    ("--slo-tolerance", None, "percent that a measurement may exceed a reference value by (default: the profile's)"),
    (
        "--regression-tolerance",
        "5",
        "percent that a figure may be worse by than the baseline's: a regression is a change beyond this, and outside the noise",
    ),
    ("--results-dir", "vmscale-results", "results go to a folder of the run's id under this one"),
    ("--run-id", None, "name of the run (default: made from the time)"),
    ("--reuse-fleet", None, "use the fleet that the run of this id left with --keep"),
    (
        "--sim-speed",
        None,
        "embedded cluster: seconds of cluster time in a second, while something is measured (default: each scenario's own, 20 for a boot storm)",
    ),
    ("--sim-provision-speed", "600", "embedded cluster: the same, while nothing is being measured"),
    ("--sim-workers", "100", "embedded cluster: worker nodes"),
    ("--sim-profile", "reference", "embedded cluster: name or file of the timing profile"),
    ("--sim-seed", "0", "embedded cluster: seed of everything random, for a repeatable run"),
)
SUITES = ("deployment", "bootstorm", "latency", "migration", "upgrade")  # as they are marked
# What --baseline-allow takes: the keys of slo.baseline.ALLOWANCES, and `missing`.
ALLOWED = ("version", "kind", "vms", "mix", "rate", "storage", "shape", "parameters", "missing")
INI_TWINS = {
    "cluster",
    "kubeconfig",
    "context",
    "vms_per_namespace",
    "vmscale_config",
    "ssh_interval",
    "ssh_via",
    "qps",
    "burst",
    "slo",
    "slo_tolerance",
    "regression_tolerance",
    "results_dir",
    "sim_speed",
    "sim_workers",
    "sim_profile",
}
# option, metavar, help: may be given more than once. An ini twin has one value.
LISTS: tuple[tuple[str, str, str], ...] = (
    ("--slo", "PROFILE|FILE", "SLO profile to judge by; of several each changes the ones before it [reference]"),
    ("--baseline", "DIR|FILE", "an earlier run's folder, or one of its results files: a figure that is worse than there fails the run"),
    (
        "--baseline-allow",
        "WHAT",
        f"compare with the baseline though this differs: {', '.join(ALLOWED)} (missing: it has none of a scenario that runs)",
    ),
    (
        "--sim-fault",
        "NAME=VALUE|FILE",
        "embedded cluster: make something go wrong; or a YAML plan of faults with times",
    ),
)
SWITCHES: tuple[tuple[str, str], ...] = (
    ("--keep", "leave the fleet on the cluster"),
    ("--inspect-on-failure", "have `oc adm inspect` gather the fleet's namespaces before they are removed, if anything failed"),
    ("--allow-disruptive", "allow what reboots nodes or edits cluster-scoped objects on a real cluster"),
    ("--upgrade-allow-explicit", "upgrade: though the target is not offered or not recommended, or the release does not name the channel"),
    ("--upgrade-force", "upgrade: without the cluster's checks of signatures and preconditions"),
    ("--upgrade-wait-for-pools", "upgrade: go on until all nodes are updated too, not only the control plane"),
    ("--install-fio", "latency: install fio in guests that have none, from their own repositories"),
    ("--plan", "print what would be created, changed and measured; contact nothing"),
)


def _name(option: str) -> str:
    return option.removeprefix("--").replace("-", "_")


def _dest(option: str) -> str:
    return f"vmscale_option_{_name(option)}"


def add(parser: pytest.Parser) -> None:
    group = parser.getgroup("vmscale", "scale acceptance of OpenShift Virtualization (vmscale)")
    for option, default, text in OPTIONS:
        shown = f"{text} [{default}]" if default else text
        twin = f"vmscale_{_name(option).removeprefix('vmscale_')}"
        if _name(option) in INI_TWINS:
            parser.addini(twin, shown)
            shown += f"; ini: {twin}"
        group.addoption(
            option, dest=_dest(option), default=None, metavar=_name(option).upper().removeprefix("VMSCALE_"), help=shown.replace("%", "%%")
        )
    for option, metavar, text in LISTS:
        shown = f"{text} (may be repeated)"
        if _name(option) in INI_TWINS:
            parser.addini(f"vmscale_{_name(option)}", shown)
            shown += f"; ini: vmscale_{_name(option)}"
        group.addoption(option, dest=_dest(option), action="append", default=[], metavar=metavar, help=shown)
    for option, text in SWITCHES:
        group.addoption(option, dest=_dest(option), action="store_true", help=text)


def given(config: pytest.Config) -> bool:
    """Whether the command line has any option of ours."""
    options = [*(option for option, _, _ in (*OPTIONS, *LISTS)), *(option for option, _ in SWITCHES)]
    return any(config.getoption(_dest(option)) for option in options)


def plans(config: pytest.Config) -> bool:
    """Whether the run only says what it would do."""
    return bool(config.getoption(_dest("--plan")))


def joined(arguments: Sequence[str]) -> list[str] | None:
    """The command line with `--kubeconfig FILE` written as `--kubeconfig=FILE`, or None if that changes nothing.

    pytest looks for its ini file before it knows any plugin's options: it takes FILE, if it exists, for a test, and
    looks for the ini file beside it. Written with an equals sign it does not.
    """
    ours = {option for option, _, _ in (*OPTIONS, *LISTS)}
    found: list[str] = []
    changed = False
    for argument in arguments:
        if found and found[-1] in ours and os.path.exists(argument):
            found[-1] += f"={argument}"
            changed = True
        else:
            found.append(argument)
    return found if changed else None


def value(config: pytest.Config, option: str) -> Any:
    """The command line's, else the ini file's, else the default."""
    found = config.getoption(_dest(option))
    if found in (None, []) and _name(option) in INI_TWINS:
        found = config.getini(f"vmscale_{_name(option).removeprefix('vmscale_')}") or None
    return {name: default for name, default, _ in OPTIONS}.get(option) if found is None else found


def new_run_id() -> str:
    """Sorts by time; ends in what keeps two runs of one second apart."""
    return time.strftime("%Y%m%d-%H%M%S", time.gmtime()) + "-" + secrets.token_hex(2)


def settings(config: pytest.Config) -> Settings:
    """Validate everything. SettingsError names the option or the line; nothing is contacted or written."""
    from . import settings as s
    from .machine import check_limits

    def number(option: str, least: float, most: float | None = None, whole: bool = False) -> float:
        return s.parse_number(option, value(config, option), least, most, whole)

    asked, named = value(config, "--cluster"), value(config, "--kubeconfig")
    if asked not in ("auto", "real", "embedded"):
        raise s.SettingsError(f"--cluster {asked}: must be auto, real or embedded")
    if asked == "embedded":
        # Of the ini file's word and the command line's, the latter counts.
        if not config.getoption(_dest("--kubeconfig")):
            named = None
        elif not config.getoption(_dest("--cluster")):
            asked = "auto"
    cluster, kubeconfig, in_cluster = s.choose_cluster(asked, named, os.environ)
    site_file = value(config, "--vmscale-config")
    if site_file is None and (config.rootpath / "vmscale.yaml").exists():
        site_file = config.rootpath / "vmscale.yaml"
    site_file = Path(site_file).expanduser() if site_file else None
    if site_file and not site_file.is_file():
        raise s.SettingsError(f"--vmscale-config {site_file}: no such file")
    site = s.load_site(site_file)
    vms = s.parse_vms(value(config, "--vms"))
    via = value(config, "--ssh-via") or site.ssh.via
    if via not in ("direct", "jump", "port-forward"):
        raise s.SettingsError(f"--ssh-via {via}: must be direct, jump or port-forward")
    deadline = value(config, "--deadline")
    until = value(config, "--deploy-until")
    if until not in ("cloned", "running", "ssh"):
        raise s.SettingsError(f"--deploy-until {until}: must be cloned, running or ssh")
    trigger = value(config, "--migration-trigger")
    if trigger not in ("machineconfig", "drain", "vmim"):
        raise s.SettingsError(f"--migration-trigger {trigger}: must be machineconfig, drain or vmim")
    strategy = value(config, "--clone-strategy")
    if strategy not in ("profile", "copy", "snapshot", "csi-clone"):
        raise s.SettingsError(f"--clone-strategy {strategy}: must be copy, snapshot, csi-clone or profile")
    qps = None if value(config, "--qps") is None else number("--qps", 0.01)
    reuse = value(config, "--reuse-fleet")
    run_id = config.workerinput["vmscale_run_id"] if hasattr(config, "workerinput") else value(config, "--run-id") or new_run_id()
    found = s.Settings(
        cluster=cluster,
        kubeconfig=kubeconfig,
        context=value(config, "--context") if kubeconfig else None,
        in_cluster=in_cluster,
        vms=vms,
        vm_mix=value(config, "--vm-mix"),
        vms_per_namespace=int(number("--vms-per-namespace", 1, whole=True)),
        bulk_sizes=s.parse_bulk_sizes(value(config, "--bulk-size") or ""),
        repeat=int(number("--repeat", 1, 100, whole=True)),
        clone_strategy=strategy,
        deploy_until=until,
        zones=int(number("--zones", 2, 50, whole=True)),
        zone_max_unavailable=s.parse_max_unavailable("--zone-max-unavailable", value(config, "--zone-max-unavailable")),
        migration_trigger=trigger,
        migration_pods=None if value(config, "--migration-pods") is None else int(number("--migration-pods", 0, whole=True)),
        parallel_migrations=int(number("--parallel-migrations", 1, 1000, whole=True)),
        outbound_migrations=int(number("--outbound-migrations", 1, 1000, whole=True)),
        upgrades=s.parse_upgrades(
            value(config, "--upgrade-to") or ("4.9.23,4.10.9" if cluster == "embedded" else ""),
            value(config, "--upgrade-channel"),
            value(config, "--upgrade-image"),
        ),
        upgrade_allow_explicit=value(config, "--upgrade-allow-explicit"),
        upgrade_force=value(config, "--upgrade-force"),
        upgrade_wait_for_pools=value(config, "--upgrade-wait-for-pools"),
        upgrade_load_percent=int(number("--upgrade-load-share", 0, 100, whole=True)),
        nodes=s.parse_sweep("--nodes", value(config, "--nodes")),
        vms_per_node=int(number("--vms-per-node", 1, whole=True)),
        install_fio=value(config, "--install-fio"),
        background_vms=int(number("--background-vms", 0, whole=True)),
        background_pods=int(number("--background-pods", 0, whole=True)),
        site=site,
        site_file=site_file,
        ssh_via=via,
        ssh_interval_seconds=number("--ssh-interval", 0.1, 600),
        deadline_seconds=None if deadline is None else s.parse_seconds("--deadline", deadline),
        provision_deadline_seconds=s.parse_seconds("--provision-deadline", value(config, "--provision-deadline")),
        qps=qps,
        burst=int(number("--burst", 1, whole=True)) if value(config, "--burst") else max(1, int(2 * (qps or 1))),
        slo=profiles(config),
        slo_tolerance_percent=None if value(config, "--slo-tolerance") is None else number("--slo-tolerance", 0),
        results_dir=Path(value(config, "--results-dir")).expanduser(),
        run_id=s.check_run_id("--run-id", run_id),
        keep=value(config, "--keep"),
        reuse_fleet=s.check_run_id("--reuse-fleet", reuse) if reuse else None,
        inspect_on_failure=value(config, "--inspect-on-failure"),
        allow_disruptive=value(config, "--allow-disruptive"),
        simulation=s.Simulation(
            speed=None if value(config, "--sim-speed") is None else number("--sim-speed", 0.01, 10_000),
            provision_speed=number("--sim-provision-speed", 0.01, 10_000),
            workers=int(number("--sim-workers", 1, 1000, whole=True)),
            profile=value(config, "--sim-profile"),
            faults=tuple(value(config, "--sim-fault")),
            seed=int(number("--sim-seed", 0, whole=True)),
        ),
        baselines=tuple(Path(each).expanduser() for each in value(config, "--baseline")),
        baseline_allow=allowed(value(config, "--baseline-allow")),
        regression_tolerance_percent=number("--regression-tolerance", 0),
    )
    found.mix(max(vms))
    check_limits(found)
    check_options_that_would_do_nothing(config, found)
    return found


def profiles(config: pytest.Config) -> tuple[str, ...]:
    """The SLO profiles' names or files, in their order."""
    found = value(config, "--slo")
    return (found,) if isinstance(found, str) else tuple(found or ["reference"])


def allowed(asked: Sequence[str]) -> tuple[str, ...]:
    """What --baseline-allow names; commas are taken too. SettingsError."""
    from .settings import SettingsError

    words = [word.strip() for each in asked for word in each.split(",")]
    for word in words:
        if word not in ALLOWED:
            raise SettingsError(f"--baseline-allow {word}: must be {', '.join(ALLOWED[:-1])} or {ALLOWED[-1]}")
    return tuple(words)


def check_options_that_would_do_nothing(config: pytest.Config, found: Settings) -> None:
    """What was asked for and could not be done is refused, not passed over. (An ini file may say what only some runs use.)"""
    from .settings import SettingsError

    def asked(option: str) -> bool:
        return bool(config.getoption(_dest(option)))

    if value(config, "--burst") and found.qps is None:
        raise SettingsError("--burst: is for --qps, which is not given")
    for option in ("--baseline-allow", "--regression-tolerance"):
        if asked(option) and not found.baselines:
            raise SettingsError(f"{option}: is for --baseline, which is not given")
    if asked("--context") and found.kubeconfig is None:
        raise SettingsError("--context: is for a kubeconfig, and none is named")
    if found.cluster == "embedded":
        for option in ("--keep", "--reuse-fleet"):
            if asked(option):
                raise SettingsError(
                    f"{option}: the embedded cluster of a run ends with it, and its fleet too; start one by hand (vmscale embedded up) and name it with --kubeconfig"
                )
    else:
        for option in ("--sim-speed", "--sim-workers", "--sim-profile", "--sim-seed", "--sim-fault"):
            if asked(option):
                raise SettingsError(f"{option}: is for the embedded cluster that a run starts itself, and another cluster is named")
    if asked("--zones") and found.site.zones:
        raise SettingsError(f"--zones: {found.site_file} names the site's zones: {', '.join(found.site.zones)}")
    if found.migration_trigger == "vmim" and found.migration_pods:
        raise SettingsError(f"--migration-pods {found.migration_pods}: no pod is evicted where migrations are asked for (--migration-trigger vmim)")
    if found.reuse_fleet and asked("--vm-mix"):
        raise SettingsError("--vm-mix: the fleet that --reuse-fleet names has its own mix")


def without_effect(config: pytest.Config, selected: Collection[str]) -> list[str]:
    """What is asked of suites that do not run, a line each. It is no mistake: pipelines give one set of options to several runs.
    `selected`: the suites of which tests are selected; none is no run."""
    found = []
    for option, text in (*((option, text) for option, _, text in OPTIONS), *SWITCHES):
        suite, colon, _ = text.partition(": ")
        if colon and suite in SUITES and selected and suite not in selected and config.getoption(_dest(option)):
            found.append(f"{option} is without effect: no test of the {suite} suite is selected")
    if set(selected) == {"latency"}:
        for option, instead in (
            ("--deadline", "measures for as long as fio in vmscale.yaml says"),
            ("--vms", "has as many VMs as --nodes and --vms-per-node say"),
        ):
            if config.getoption(_dest(option)):
                found.append(f"{option} is without effect: the latency suite {instead}")
    return found
