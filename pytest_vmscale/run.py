"""One run: what it was asked for, what it has measured and judged so far, and what it leaves behind.

Fixtures and suites write into it; it reads no cluster and runs no procedure.
"""

from __future__ import annotations

import functools
import json
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from . import __version__
from .cluster.access import ClusterError, look_at
from .model import Measurement, Objective, Outcome, Record
from .report.comparison import Compared, against, data, one_line
from .report.files import About, ResultFiles, ScenarioFiles, slug
from .report.saved import Saved, SavedError, load_baseline, subtitle
from .rights import RUN, Right
from .scenarios import ALL, Scenario, named, of_objective
from .settings import Settings, SettingsError
from .slo.baseline import Conditions, conditions, differences, shape
from .slo.judge import Ruling, Verdict, verdict
from .slo.own import judge as judge_own
from .slo.own import with_severity
from .slo.profile import Profile

START_AND_STOP_WALL_SECONDS = 300.0  # starting and ending the cluster, logging in, drawing charts


class MeasurementFailed(Exception):
    """The measurement could not be taken: the run is inconclusive (exit code 11)."""


class ClusterUnfit(Exception):
    """The cluster cannot be measured as it is, found before anything was (exit code 10)."""


class SloBreach(AssertionError):
    """An objective is broken. An AssertionError: reports tell a failure from trouble by it."""


class Run:
    """The state of one run, in the process that runs the suites."""

    def __init__(self, settings: Settings, profile: Profile) -> None:
        """SettingsError or ClusterError if it cannot be run as asked; nothing is contacted."""
        self.settings, self.profile = settings, profile
        # An embedded cluster that was started by hand is named by a kubeconfig, as a real one is.
        by_hand = look_at(settings.kubeconfig, settings.context) if settings.kubeconfig else None
        # Cluster seconds a wall second; None: each scenario has its own, on an embedded cluster that this run starts.
        self.time_rate: float | None = settings.simulation.speed if settings.cluster == "embedded" else by_hand.speed if by_hand else 1.0
        self.cluster_facts: dict[str, Any] = {"kind": "embedded" if by_hand else settings.cluster}
        if settings.ssh_via == "jump" and settings.site.ssh.jump_host is None and self.cluster_facts["kind"] == "real":
            raise SettingsError("--ssh-via jump: vmscale.yaml names no ssh.jump_host")
        self.selected: list[Scenario] = []
        self.measurements: list[Measurement] = []
        self.objectives: list[Objective] = []
        self.troubles: list[str] = []
        self.unfit: list[str] = []
        self.cluster_fits = False  # it is connected, and nothing speaks against all suites
        self.unfit_for: set[str] = set()  # markers of the suites that it does not fit
        self.failures: list[str] = []  # tests of ours that failed for a reason of their own
        self.began = False  # there is a cluster that something was asked of
        self.interruptions = 0  # Ctrl-C and SIGTERM, while there is a cluster
        self.cleanup: dict[str, Any] | None = None  # of all fleets together
        self.look_at_fleet: Callable[[], Mapping[str, Any]] | None = None  # set while there is a fleet
        self.look_into_vms: Callable[[Sequence[Record]], str] | None = None  # likewise
        self.evidence: dict[tuple[str, str], str] = {}  # of failed VMs, by scenario and scope
        try:
            self.baselines: list[Saved] = load_baseline(settings.baselines)
        except SavedError as error:
            raise SettingsError(f"--baseline {error}") from None
        self._compared: Compared | None = None
        self._files: ResultFiles | None = None
        self._scenario_files: list[tuple[Measurement, ScenarioFiles]] = []
        self._judged_together: set[str] = set()
        self.taken: dict[tuple[str, object], Measurement] = {}  # whole ones, by scenario and point: of several suites the first has it taken

    # What was asked for.

    def select(self, markers: list[str]) -> None:
        """The scenarios that will run. SettingsError or ProfileError if one cannot be run as asked."""
        self.selected = [each for each in ALL if each.marker in markers]
        for each in self.selected:
            each.judge.deadlines_seconds(self.settings, self.profile, self.tolerance_percent)
            self._check_baseline(each)

    def rights(self) -> set[Right]:
        """What the run must be allowed to do on the cluster."""
        return {*RUN, *(right for each in self.selected for right in each.report.plan(self).needs)}

    def check_baselines(self) -> None:
        """Of a cluster that is known by now, and before anything is made on it, as when the scenarios were selected. ClusterUnfit."""
        try:
            for each in self.selected:
                self._check_baseline(each)
        except SettingsError as error:
            raise ClusterUnfit(str(error)) from None

    def _check_baseline(self, scenario: Scenario) -> None:
        """What can be told before anything is measured of whether it can be compared. SettingsError."""
        allow = self.settings.baseline_allow
        theirs = [each for each in self.baselines if each.measurement.scenario == scenario.name]
        if self.baselines and not theirs and "missing" not in allow:
            paths = ", ".join(str(each) for each in self.settings.baselines)
            raise SettingsError(f"--baseline {paths}: has no results of {scenario.name} (--baseline-allow missing to leave it uncompared)")
        facts: dict[str, Any] = {"version": scenario.version, "kind": self.cluster_facts["kind"], "rate": self.speed_of(scenario)}
        if self.settings.cluster == "embedded":
            facts["shape"] = {"workers": self.settings.simulation.workers}
        if "worker_count" in self.cluster_facts:
            facts["shape"] = shape(self.cluster_facts)
        sizes = scenario.sizes(self.settings)
        for each in theirs:
            size = _vms(each)
            known = {**facts, "mix": self.settings.mix(size, "")} if self.settings.vm_mix and size in sizes else facts
            for name, said in differences(Conditions(known), each.conditions).items():
                if name not in allow:
                    raise SettingsError(f"--baseline {each.path}: {said}; --baseline-allow {name} to compare all the same")
        if self.baselines and not {"vms", "missing"} & set(allow):
            has = {_vms(each) for each in theirs}
            for size in sizes:
                if size not in has:
                    told = f"{scenario.name} of {' and '.join(map(str, sorted(has)))} VMs there, {size} here"
                    raise SettingsError(f"--baseline {theirs[0].path}: {told}; --baseline-allow vms to compare all the same")

    def speed_of(self, scenario: Scenario) -> float:
        """Cluster seconds a wall second while this scenario measures."""
        return scenario.speed if self.time_rate is None else self.time_rate

    def header(self) -> list[str]:
        settings, profile = self.settings, self.profile
        if settings.cluster == "embedded":
            simulation = settings.simulation
            speeds = sorted({self.speed_of(each) for each in self.selected})
            at = f", simulated at {' to '.join(f'{each:g}x' for each in dict.fromkeys((speeds[0], speeds[-1])))}" if speeds else ""
            where = f"embedded cluster, {simulation.workers} workers, timing profile {simulation.profile}{at}"
            if simulation.faults:
                where += f", faults {' '.join(simulation.faults)}"
        else:
            named = "the pod's service account" if settings.in_cluster else str(settings.kubeconfig)
            where = f"{self.cluster_facts['kind']} cluster by {named}" + (f", context {settings.context}" if settings.context else "")
            if self.cluster_facts["kind"] == "embedded":
                where += f", simulated at {self.time_rate:g}x"
        return [
            f"vmscale: {where}",
            f"vmscale: SLO profile {profile.name} (+{self.tolerance_percent:g} %), run {settings.run_id}, results in {settings.results}",
        ]

    @property
    def tolerance_percent(self) -> float:
        asked = self.settings.slo_tolerance_percent
        return self.profile.tolerance_percent if asked is None else asked

    def provision_deadline_seconds(self) -> float:
        """Cluster seconds. Where time runs faster than usual because nobody measures it, there is more of it."""
        if self.cluster_facts["kind"] == "real":
            return self.settings.provision_deadline_seconds
        return self.settings.provision_deadline_seconds * max(1.0, self.settings.simulation.provision_speed / self.start_speed)

    @property
    def start_speed(self) -> float:
        """Cluster seconds a wall second at which an embedded cluster starts: of the scenarios' speeds the slowest."""
        return min(self.speed_of(each) for each in self.selected or ALL)

    def last_resort_wall_seconds(self) -> float:
        """Wall time that one test may take with everything before it: above all deadlines together."""
        fast = self.settings.simulation.provision_speed if self.cluster_facts["kind"] == "embedded" else 1.0
        measuring = [
            sum(each.judge.deadlines_seconds(self.settings, self.profile, self.tolerance_percent)) / self.speed_of(each)
            for each in self.selected
        ]
        return START_AND_STOP_WALL_SECONDS + 1.5 * sum(measuring) + 2 * self.provision_deadline_seconds() / fast

    # What it leaves behind.

    @property
    def files(self) -> ResultFiles:
        if self._files is None:
            tool = {"name": "pytest-vmscale", "version": __version__, "git_commit": _git_commit()}
            self._files = ResultFiles(self.settings.results, About(self.settings.run_id, tool, self.cluster_facts))
        return self._files

    def scenario_files(self, name: str, point: int | str | None, workload: Mapping[str, Any]) -> ScenarioFiles:
        try:
            return self.files.scenario(name, point, workload)
        except FileExistsError:
            raise MeasurementFailed(f"{named(name).title}: another suite of this run began it, and it was cut short") from None

    def measured(self, measurement: Measurement, files: ScenarioFiles) -> tuple[Objective, ...]:
        """Keep a measurement, whole or partial, judge it, and write its files."""
        self.look_into(measurement)
        self.measurements.append(measurement)
        self._scenario_files.append((measurement, files))
        scenario, profile = named(measurement.scenario), self.profile
        own = {id: each for id, each in profile.objectives.items() if of_objective(id) is scenario}
        judged = with_severity(
            (
                *scenario.judge.judge(measurement, profile, self.tolerance_percent),
                *judge_own(own, measurement, self.tolerance_percent, self.cluster_facts.get("worker_count")),
            ),
            profile.severity,
            own,
        )
        self.objectives.extend(judged)
        self.written(lambda: files.finish(measurement, judged, self._cleanup_state()))
        if not measurement.complete:
            title = named(measurement.scenario).title
            self.troubles.append(f"{title}, {measurement.scope}: the measurement is not complete: {measurement.incomplete_reason}.")
        return judged

    def written(self, write: Callable[[], object]) -> bool:
        """Write a file of the results. A disk that is full, or has gone, ends no measurement and no clean-up: the verdict tells."""
        try:
            write()
        except OSError as error:
            told = f"The results in {self.settings.results} are not whole: {error.strerror or error}."
            if told not in self.troubles:
                self.troubles.append(told)
            return False
        return True

    def look_into(self, measurement: Measurement) -> None:
        """Gather what the cluster says of the VMs that failed, once, while they are there."""
        place = (measurement.scenario, measurement.scope)
        if not measurement.failed or place in self.evidence or self.look_into_vms is None:
            return
        self.evidence[place] = self.look_into_vms(measurement.failed)
        path = self.files.folder / f"failed-vms_{measurement.scenario}_{slug(measurement.scope)}.txt"
        self.written(lambda: path.write_text(self.evidence[place], encoding="utf-8"))

    @property
    def failing(self) -> bool:
        """Whether anything has gone wrong so far."""
        return bool(self.troubles or self.unfit or any(each.outcome in (Outcome.FAIL, Outcome.INCONCLUSIVE) for each in self.objectives))

    def judged_together(self, scenario: Scenario) -> None:
        """Judge a scenario's measurements together, once."""
        if scenario.name not in self._judged_together:
            self._judged_together.add(scenario.name)
            taken = [each for each in self.measurements if each.scenario == scenario.name]
            judged = scenario.judge.judge_together(taken, self.profile, self.tolerance_percent)
            self.objectives.extend(with_severity(judged, self.profile.severity, {}))

    def compared(self) -> Compared | None:
        """What was measured so far against the baseline; None without one."""
        if not self.baselines:
            return None
        taken = [(measurement, conditions(measurement, self.cluster_facts, files.workload)) for measurement, files in self._scenario_files]
        if self._compared is None or len(self._compared.comparisons) != len(taken):
            settings = self.settings
            self._compared = against(taken, self.baselines, settings.regression_tolerance_percent, settings.baseline_allow)
        return self._compared

    def cleaned_up(self, *, left: Sequence[str] = (), why: str | None = None, requested: bool = True) -> None:
        """What became of one fleet's, or one edit's, removal: `left` names what is still there, `why` says what went wrong."""
        before = self.cleanup or {"requested": False, "status": None, "left": []}
        whys = [each for each in (before.get("why"), why) if each]
        status = "Failed" if left or whys or before["status"] == "Failed" else "Success" if requested else before["status"]
        self.cleanup = {"requested": requested or before["requested"], "status": status, "left": [*before["left"], *left]}
        if whys:
            self.cleanup["why"] = "; ".join(whys)

    def _cleanup_state(self) -> dict[str, Any]:
        return self.cleanup or {"requested": not self.settings.keep, "status": None}

    @property
    def interrupted(self) -> bool:
        return self.interruptions > 0

    def dump_state(self, why: str) -> Path:
        """Write what the fleet looks like now to a file; called when a test does not end."""
        path = self.files.folder / "fleet-state.json"
        state: dict[str, Any] = {"why": why}
        try:
            state.update(self.look_at_fleet() if self.look_at_fleet else {"fleet": "there is none yet"})
        except Exception as error:  # whatever is wrong with the cluster, the reason to dump stands
            state["could_not_look"] = f"{type(error).__name__}: {error}"
        self.written(lambda: path.write_text(json.dumps(state, indent=2, default=str) + "\n", encoding="utf-8"))
        return path

    def trouble_line(self, error: BaseException, markers: Iterable[str] = ()) -> str | None:
        """One line for an error that is ours to explain, and remembered for the verdict; None for any other. `markers`: of the
        suite that it came from."""
        if isinstance(error, SloBreach):
            return str(error)
        if isinstance(error, ClusterUnfit):
            kind, told = self.unfit, f"the cluster is not fit: {error}"
            self.unfit_for.update(markers)
        elif isinstance(error, MeasurementFailed):
            kind, told = self.troubles, f"the measurement could not be taken: {error}"
        elif isinstance(error, ClusterError):
            kind, told = (self.troubles if self.measurements else self.unfit), str(error)
        else:
            return None
        if str(error) not in kind:
            kind.append(str(error))
        return told

    @property
    def hopeless(self) -> bool:
        """Whether every further test would say again that the cluster is not fit. One suite that it does not fit stops no other."""
        return bool(self.unfit) and (not self.cluster_fits or {each.marker for each in self.selected} <= self.unfit_for)

    # How it ends.

    def finish(self, interrupted: bool) -> dict[str, Any] | None:
        """Write verdict.json and say what the terminal shows. None if no scenario of ours ran."""
        if not (self.measurements or self.troubles or self.unfit or self.failures or (interrupted and self.began)):
            return None
        if interrupted and not any(not each.complete for each in self.measurements):
            self.troubles.append("The run was interrupted.")
        for measurement, files in self._scenario_files:
            prefix = named(measurement.scenario).prefix
            own = [each for each in self.objectives if each.id.startswith(f"{prefix}.") and each.scope == measurement.scope]
            self.written(functools.partial(files.finish, measurement, own, self._cleanup_state()))
        if self.cleanup and self.cleanup.get("status") == "Failed":
            left = self.cleanup.get("left") or ()
            told = self.cleanup.get("why") or f"Clean-up left {len(left)} object{'' if len(left) == 1 else 's'} behind"
            self.troubles.append(f"{told}: vmscale cleanup --run-id {self.settings.run_id} removes what is left.")
        rates = {each.time_rate for each in self.measurements}
        if len(rates) == 1:
            self.cluster_facts["time_rate"] = rates.pop()
        compared = self.compared()
        if compared:
            self.troubles += [each for each in compared.troubles if each not in self.troubles]
        charts: list[Path] = []

        def write() -> bool:
            against_baseline = data(compared) if compared else None
            ruling = self._verdict(interrupted, compared)
            return self.written(lambda: self.files.write_verdict(ruling, against_baseline, self.profile.name, charts))

        # First without charts: they take seconds that a worker of xdist which is interrupted may not have.
        write()
        self.written(lambda: charts.extend(self._charts()))
        write()
        final = self._verdict(interrupted, compared)  # it tells, too, that the last of these could not be written
        return {
            "exit_code": final.exit_code,
            "lines": self._lines(final),
            "folder": str(self.files.folder),
            "cluster": dict(self.cluster_facts),
        }

    def _verdict(self, interrupted: bool, compared: Compared | None) -> Verdict:
        failures = [*self.failures, *(compared.regressions if compared else ())]
        final = replace(verdict(self.objectives, self.troubles, self.unfit, failures), interrupted=interrupted)
        if compared and final.ruling is Ruling.PASS:
            final = replace(final, why=(*final.why, one_line(compared)))
        return final

    def _charts(self) -> list[Path]:
        from .report.charts import write_charts
        from .report.comparison import write_comparison_charts

        folder = self.files.folder / "charts"
        charts = write_charts(folder, self.measurements, self.objectives, self.subtitle)
        if self.baselines:
            charts += write_comparison_charts(folder, self.measurements, self.baselines, self.subtitle)
        return charts

    def _lines(self, final: Verdict) -> list[str]:
        from .report.terminal import summary_lines

        return summary_lines(final, self.measurements, self.files.folder, self._simulated, self.compared())

    def _simulated(self, measurement: Measurement) -> str:
        return self.subtitle(measurement) if self.cluster_facts["kind"] == "embedded" else ""

    def subtitle(self, measurement: Measurement) -> str:
        """What every report says beside a duration."""
        return subtitle(self.cluster_facts, measurement)

    def write_allure_environment(self, folder: str, outcome: Mapping[str, Any]) -> None:
        from .report.allure import write_environment

        write_environment(Path(folder), {**outcome["cluster"], "slo_profile": self.profile.name, "run_id": self.settings.run_id})


def _vms(saved: Saved) -> int:
    """How many VMs a measurement was asked for with."""
    return int(saved.measurement.parameters.get("vms") or saved.measurement.size)


def _git_commit() -> str | None:
    try:
        found = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=5, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None
