"""What each scenario measures of one VM: its records, as they are in the result files. Seconds are cluster time."""

from __future__ import annotations

from dataclasses import dataclass

from .model import Record


@dataclass(frozen=True, kw_only=True)
class BootRecord(Record):
    """One VM of a boot storm.

    error_bound_seconds: how much earlier than measured the guest may have been up (time since the last
    probe that failed, or since Running if the first one succeeded).
    """

    METRICS = (
        "time_to_vm_created_seconds",
        "time_to_vmi_running_seconds",
        "time_to_vmi_ready_seconds",
        "time_to_guest_ip_seconds",
        "time_to_ssh_seconds",
    )
    OUTCOME = "time_to_ssh_seconds"

    time_to_vm_created_seconds: float | None = None  # the VM's VMI exists
    time_to_vmi_running_seconds: float | None = None
    time_to_vmi_ready_seconds: float | None = None
    time_to_guest_ip_seconds: float | None = None
    time_to_ssh_seconds: float | None = None
    error_bound_seconds: float | None = None
    request_seconds: float | None = None  # from sending the start request to its answer
    probes: int = 0
    probe_lag_seconds: float | None = None  # the most that one of its probes was late


@dataclass(frozen=True, kw_only=True)
class DeployRecord(Record):
    """One VM of a deployment.

    polled_clone_duration_seconds: what a poll every two seconds from the request would have said, as the reference measured.
    clone_strategy: what was really done (copy, snapshot, csi-clone), not what was asked for. clone_fallback: why it was another.
    """

    METRICS = (
        "time_to_data_volume_seconds",
        "clone_duration_seconds",
        "polled_clone_duration_seconds",
        "time_to_vmi_running_seconds",
        "time_to_ssh_seconds",
    )
    OUTCOME = "clone_duration_seconds"

    bulk: int  # from 1
    ordinal: int  # in the order of the requests, from 1
    time_to_data_volume_seconds: float | None = None  # the VM's DataVolume exists
    clone_duration_seconds: float | None = None  # the DataVolume is Succeeded
    polled_clone_duration_seconds: float | None = None
    time_to_vmi_running_seconds: float | None = None  # with --deploy-until
    time_to_ssh_seconds: float | None = None
    clone_strategy: str | None = None
    clone_fallback: str | None = None
    request_seconds: float | None = None  # from sending the create request to its answer


@dataclass(frozen=True, kw_only=True)
class LatencyRecord(Record):
    """One VM's I/O: completion latencies of each load and direction, as its fio counted them, and the rate it achieved.

    overloaded: the loads and directions ("workload-write") in which it achieved less than 99 % of its rate: its latency there
    is that of a queue, and counts in no figure of the fleet. clock_offset_seconds: its clock against the run's, within the bound.
    late_seconds: the most that one of its runs began after the barrier.
    """

    SIZES = ("vms", "nodes", "vms_per_node")
    DURATION_MEASURED = False
    LOADS = ("baseline", "workload")
    DIRECTIONS = ("read", "write")
    PHASES = ("baseline-read", "baseline-write", "workload-read", "workload-write")
    METRICS = (
        "baseline_read_mean_seconds",
        "baseline_write_mean_seconds",
        "workload_read_mean_seconds",
        "workload_write_mean_seconds",
        "baseline_read_p99_seconds",
        "baseline_write_p99_seconds",
        "workload_read_p99_seconds",
        "workload_write_p99_seconds",
    )
    BY_GUESTS = METRICS

    baseline_read_mean_seconds: float | None = None
    baseline_read_p50_seconds: float | None = None
    baseline_read_p90_seconds: float | None = None
    baseline_read_p99_seconds: float | None = None
    baseline_read_p999_seconds: float | None = None
    baseline_read_iops: float | None = None
    baseline_write_mean_seconds: float | None = None
    baseline_write_p50_seconds: float | None = None
    baseline_write_p90_seconds: float | None = None
    baseline_write_p99_seconds: float | None = None
    baseline_write_p999_seconds: float | None = None
    baseline_write_iops: float | None = None
    workload_read_mean_seconds: float | None = None
    workload_read_p50_seconds: float | None = None
    workload_read_p90_seconds: float | None = None
    workload_read_p99_seconds: float | None = None
    workload_read_p999_seconds: float | None = None
    workload_read_iops: float | None = None
    workload_write_mean_seconds: float | None = None
    workload_write_p50_seconds: float | None = None
    workload_write_p90_seconds: float | None = None
    workload_write_p99_seconds: float | None = None
    workload_write_p999_seconds: float | None = None
    workload_write_iops: float | None = None
    overloaded: tuple[str, ...] = ()
    clock_offset_seconds: float | None = None
    clock_bound_seconds: float | None = None
    late_seconds: float | None = None
    fetch_tries: int = 0

    def of(self, phase: str, figure: str) -> float | None:
        """A figure ("mean_seconds", "iops") of one of PHASES, whether its rate was achieved or not."""
        found: float | None = getattr(self, f"{phase.replace('-', '_')}_{figure}")
        return found

    def mean_seconds(self, phase: str) -> float | None:
        """The mean latency in a phase; None if it was not reported, or is that of a queue."""
        return None if phase in self.overloaded else self.of(phase, "mean_seconds")


@dataclass(frozen=True, kw_only=True)
class UpgradeRecord(Record):
    """One VM while the cluster was upgraded under it.

    ssh_downtime_seconds: its longest time without an answer, from the first probe that failed to the next answer, 0 if none failed; in
    truth it was at most ssh_downtime_most_seconds: from the last answer before it. io_windows: the windows in which its fio has a
    result; the means are over all I/Os, before the upgrade and during it. io_longest_stall_seconds: what its slowest I/O took meanwhile.
    """

    METRICS = ("ssh_downtime_seconds", "io_baseline_mean_seconds", "io_upgrade_mean_seconds", "io_longest_stall_seconds")
    BY_GUESTS = ("io_baseline_mean_seconds", "io_upgrade_mean_seconds", "io_longest_stall_seconds")

    ssh_downtime_seconds: float | None = None
    ssh_downtime_most_seconds: float | None = None
    ssh_downtime_total_seconds: float | None = None
    probes: int = 0
    probes_failed: int = 0
    restarts: int = 0
    migrations: int = 0
    node_before: str | None = None
    io_windows: int = 0
    io_error: str | None = None
    io_baseline_mean_seconds: float | None = None
    io_upgrade_mean_seconds: float | None = None
    io_longest_stall_seconds: float | None = None

    def applies(self, metric: str) -> bool:
        """fio runs in some of the VMs only."""
        return metric not in self.BY_GUESTS or self.io_windows > 0 or self.io_error is not None


LIVE_MIGRATION, RESTART = "live-migration", "restart"


@dataclass(frozen=True, kw_only=True)
class MigrationRecord(Record):
    """One VM that was to leave its node. `requested_at` is when that was asked of it: its pod's eviction was seen, or, where the run asks
    for each migration itself, just before its request. `node`: where it runs in the end.

    moves_by: live-migration or restart, as its eviction strategy has it; the two are never in one sample. Of the migration that took it
    off its first node: queued (created, until its target pod is made), prepared (until the target is ready), and its duration: from
    the source's start to the end, as the VMI's migrationState has them. Of a restart: from the eviction, and from the new VMI's
    Scheduling, until that is Running. failures: why earlier migrations failed. migrations, restarts: all that it went through.
    """

    METRICS = (
        "time_to_moved_seconds",
        "migration_duration_seconds",
        "migration_queued_seconds",
        "migration_prepared_seconds",
        "restart_duration_seconds",
        "restart_start_seconds",
    )
    OUTCOME = "time_to_moved_seconds"
    FIGURES = ("vms_off_seconds", "drain_seconds", "node_wait_seconds")
    SIZES = ("vms", "zone_nodes", "pods")

    moves_by: str
    node_before: str | None = None
    time_to_moved_seconds: float | None = None  # it runs on another node
    migration_duration_seconds: float | None = None
    migration_queued_seconds: float | None = None
    migration_prepared_seconds: float | None = None
    restart_duration_seconds: float | None = None
    restart_start_seconds: float | None = None
    migrations: int = 0
    restarts: int = 0
    failures: tuple[str, ...] = ()

    def applies(self, metric: str) -> bool:
        kind = metric.partition("_")[0]
        return kind not in ("migration", "restart") or kind == ("restart" if self.moves_by == RESTART else "migration")


@dataclass(frozen=True, kw_only=True)
class MigrationLoadRecord(Record):
    """One VM's I/O while VMs are migrated, against the same I/O before: `still` and `moving`, each with a baseline and a workload.

    longest_gap_seconds: the longest that one of its I/Os took while VMs were migrated, which its own migration's switchover is part of.
    migration_baseline_seconds, migration_workload_seconds: the mean of its own migrations under each load, as MigrationRecord has them.
    """

    LOADS, DIRECTIONS = ("baseline", "workload"), ("read", "write")
    PHASES = tuple(
        f"{state}-{load}-{direction}"
        for state in ("still", "moving")
        for load in ("baseline", "workload")
        for direction in ("read", "write")
    )
    DURATION_MEASURED = False
    BY_GUESTS = (
        "still_workload_read_mean_seconds",
        "moving_workload_read_mean_seconds",
        "still_workload_write_mean_seconds",
        "moving_workload_write_mean_seconds",
        "longest_gap_seconds",
    )
    METRICS = (*BY_GUESTS, "migration_baseline_seconds", "migration_workload_seconds")

    still_baseline_read_mean_seconds: float | None = None
    still_baseline_write_mean_seconds: float | None = None
    still_workload_read_mean_seconds: float | None = None
    still_workload_write_mean_seconds: float | None = None
    moving_baseline_read_mean_seconds: float | None = None
    moving_baseline_write_mean_seconds: float | None = None
    moving_workload_read_mean_seconds: float | None = None
    moving_workload_write_mean_seconds: float | None = None
    still_baseline_read_iops: float | None = None
    still_baseline_write_iops: float | None = None
    still_workload_read_iops: float | None = None
    still_workload_write_iops: float | None = None
    moving_baseline_read_iops: float | None = None
    moving_baseline_write_iops: float | None = None
    moving_workload_read_iops: float | None = None
    moving_workload_write_iops: float | None = None
    longest_gap_seconds: float | None = None
    migration_baseline_seconds: float | None = None
    migration_workload_seconds: float | None = None
    migrations: int = 0
    failures: tuple[str, ...] = ()
    overloaded: tuple[str, ...] = ()

    def applies(self, metric: str) -> bool:
        """In the time there is not each VM is migrated under each load: those that are not have no time of it."""
        return not metric.startswith("migration_") or getattr(self, metric) is not None

    def mean_seconds(self, phase: str) -> float | None:
        """The mean latency in one of PHASES; None if it was not reported, or is that of a queue."""
        found: float | None = getattr(self, f"{phase.replace('-', '_')}_mean_seconds")
        return None if phase in self.overloaded else found
