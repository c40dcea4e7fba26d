"""pytest's hooks, and nothing else: options, markers, header, plan, one scenario at a time, summary, exit code.

Every pytest run on the machine loads this file, so what is heavy is imported inside functions.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pytest

from . import options

if TYPE_CHECKING:
    from .run import Run

MARKERS = {
    "deployment": "clone VMs from a golden image, in bulks",
    "bootstorm": "start many VMs at once, until SSH answers",
    "latency": "I/O latency in the guests, baseline against workload",
    "migration": "drain a zone of workers, moving its VMs",
    "upgrade": "upgrade the cluster under load",
    "sweep": "judges all points of a sweep together",
    "own_objective": "judges what the SLO profile adds: own_objective(name of the scenario)",
    "comparison": "compares what was measured with --baseline",
    "disruptive": "reboots nodes, edits cluster-scoped objects or upgrades: needs --allow-disruptive on a real cluster",
}
RUN: pytest.StashKey[Run] = pytest.StashKey()
BEFORE: pytest.StashKey[list[pytest.Item]] = pytest.StashKey()  # what is selected, before --last-failed takes its choice
FROM_WORKERS: pytest.StashKey[list[dict[str, Any]]] = pytest.StashKey()
FOLDER: pytest.StashKey[TemporaryDirectory[str]] = pytest.StashKey()  # where xdist's workers write what their controller has to know
REFUSED: pytest.StashKey[str] = pytest.StashKey()  # what is wrong with the options, by the word of xdist's workers


def pytest_addoption(parser: pytest.Parser) -> None:
    options.add(parser)


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """`--kubeconfig FILE` makes pytest look for its ini file beside FILE: begin again with `--kubeconfig=FILE`.
    --plan needs no xdist, whose workers would run what is only to be told."""
    if options.plans(config) and config.pluginmanager.has_plugin("xdist"):
        config.option.numprocesses, config.option.distload = 0, False
    given_arguments = [str(each) for each in config.invocation_params.args]
    better = options.joined(given_arguments)
    if better is None or config.getoption("inifilename"):
        return
    words = sys.orig_argv
    if words[-len(given_arguments) :] != given_arguments or config.invocation_params.plugins:
        raise pytest.UsageError(
            f"write {' '.join(each for each in better if each not in given_arguments)}, with an equals sign: pytest takes the path for a test otherwise"
        )
    os.execv(sys.executable, [sys.executable, *words[1 : len(words) - len(given_arguments)], *better])


@pytest.hookimpl(tryfirst=True)  # before allure-pytest's
def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput") and hasattr(config.option, "clean_alluredir"):
        config.option.clean_alluredir = False  # each of xdist's workers would delete what the others wrote
    for name, text in MARKERS.items():
        config.addinivalue_line("markers", f"{name}: {text}")
    if not (options.given(config) or config.pluginmanager.has_plugin("fixtures.cluster")):
        return  # somebody else's test run
    if config.option.help or config.option.version:
        return
    from . import machine
    from .cluster.access import ClusterError
    from .run import Run
    from .scenarios import check_profile
    from .settings import SettingsError
    from .slo.profile import ProfileError, load_profile

    try:
        settings = options.settings(config)
        profile = load_profile(*settings.slo)
        check_profile(profile)
        run = Run(settings, profile)
        if not hasattr(config, "workerinput"):
            machine.check_simulation(settings)
            machine.check_files(settings)
            machine.check_reports(config)
    except (SettingsError, ClusterError) as error:
        raise pytest.UsageError(str(error)) from None
    except ProfileError as error:
        raise pytest.UsageError(f"--slo {error}") from None
    config.stash[RUN] = run
    config.stash[FROM_WORKERS] = []
    if not hasattr(config, "workerinput") and config.getoption("dist", "no") != "no":
        config.stash[FOLDER] = TemporaryDirectory(prefix="vmscale-workers-")
        config.add_cleanup(config.stash[FOLDER].cleanup)


def scenarios(items: list[pytest.Item]) -> list[str]:
    """The scenarios that these items belong to, by their markers; one that has the markers of two suites: "latency and migration"."""
    found = {" and ".join(name for name in options.SUITES if item.get_closest_marker(name)) for item in items}
    return sorted(found - {""}, key=lambda each: (each.count(" "), options.SUITES.index(each.partition(" ")[0])))


def of_two_suites(items: list[pytest.Item], markexpr: str) -> list[pytest.Item]:
    """Those that belong to two suites, of which -m names but one: `-m latency` is not to migrate anything."""
    named = set(re.findall(r"\w+", markexpr))
    suites = {item: set(" ".join(scenarios([item])).split(" and ")) for item in items}
    return [item for item, both in suites.items() if len(both) > 1 and len(both & named) == 1]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that takes `vms` runs once for each point of the sweep, on one fleet."""
    if "vms" in metafunc.fixturenames and RUN in metafunc.config.stash:
        counts = metafunc.config.stash[RUN].settings.vms
        metafunc.parametrize("vms", counts, ids=[f"{count}-vms" for count in counts], scope="module")
    mark = metafunc.definition.get_closest_marker("own_objective")
    if mark and RUN in metafunc.config.stash:
        from .scenarios import of_objective

        own = [each for each in metafunc.config.stash[RUN].profile.objectives if of_objective(each).name == mark.args[0]]
        metafunc.parametrize("own_objective", own or [None])


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With xdist only workers collect, and one that ended here would be an internal error of xdist's: it selects nothing, and its
    controller says why."""
    run = config.stash.get(RUN, None)
    if run is None:
        return
    try:
        select(config, run, items)
    except pytest.UsageError as error:
        if not hasattr(config, "workerinput"):
            raise
        config.workeroutput["vmscale_refused"] = str(error)  # type: ignore[attr-defined]
        items[:] = []


def select(config: pytest.Config, run: Run, items: list[pytest.Item]) -> None:
    """Leave the items that are to run. UsageError if they cannot be run as asked."""
    from .settings import SettingsError
    from .slo.profile import ProfileError

    if others := of_two_suites(items, config.option.markexpr):
        items[:] = [item for item in items if item not in others]
        config.hook.pytest_deselected(items=others)
    if run.settings.cluster == "real" and not run.settings.allow_disruptive:
        disruptive = [item.nodeid for item in items if item.get_closest_marker("disruptive")]
        if disruptive:
            raise pytest.UsageError(
                f"{disruptive[0]} reboots nodes or edits cluster-scoped objects: give --allow-disruptive, or deselect it with -m 'not disruptive'"
            )
    # One point is no sweep, without a baseline nothing is compared, and most profiles add nothing: there is nothing to skip or report.
    unneeded = [item for item in items if item.get_closest_marker("sweep") and not run.settings.is_sweep(scenarios([item]))]
    if not run.settings.baselines:
        unneeded += [item for item in items if item.get_closest_marker("comparison")]
    unneeded += [item for item in items if item.get_closest_marker("own_objective") and _parameter(item, "own_objective") is None]
    if unneeded:
        items[:] = [item for item in items if item not in unneeded]
        config.hook.pytest_deselected(items=unneeded)
    config.stash[BEFORE] = list(items)
    try:
        run.select(scenarios(items))
    except SettingsError as error:
        raise pytest.UsageError(str(error)) from None
    except ProfileError as error:
        raise pytest.UsageError(f"--slo {error}") from None
    for item in items:
        if scenarios([item]) and not item.get_closest_marker("timeout"):
            # The last resort, above every deadline of the procedures themselves.
            item.add_marker(pytest.mark.timeout(run.last_resort_wall_seconds(), method="signal"))


@pytest.hookimpl(tryfirst=True)  # before xdist's, which tells the controller what there is
def pytest_collection_finish(session: pytest.Session) -> None:
    """What judges a sweep judges nothing alone, as --last-failed may select it: its points are measured with it again. What touches the
    cluster then is told to xdist's controller."""
    chosen = set(session.items)
    for item in [each for each in session.items if each.get_closest_marker("sweep")]:
        points = [each for each in session.config.stash.get(BEFORE, []) if each.path == item.path and not each.get_closest_marker("sweep")]
        if not chosen & set(points):
            place = session.items.index(item)
            session.items[place:place] = points
            chosen.update(points)
    if folder := getattr(session.config, "workerinput", {}).get("vmscale_folder"):
        from .workers import tell

        tell(Path(folder), [item for item in session.items if scenarios([item])])


def _parameter(item: pytest.Item, name: str) -> Any:
    return item.callspec.params.get(name) if hasattr(item, "callspec") else None


def pytest_report_header(config: pytest.Config) -> list[str]:
    """With xdist the controller collects nothing: it says here what it says elsewhere once scenarios are collected."""
    run = config.stash.get(RUN, None)
    return run.header() if run and config.getoption("dist", "no") != "no" else []


def pytest_report_collectionfinish(config: pytest.Config, items: list[pytest.Item]) -> list[str]:
    run = config.stash.get(RUN, None)
    if run is None or not scenarios(items):
        return []
    suites = {name for each in scenarios(items) for name in each.split(" and ")}
    return [*run.header(), *(f"vmscale: {each}" for each in options.without_effect(config, suites))]


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool | None:
    """--plan: say what would be done, and do none of it."""
    if not options.plans(session.config) or RUN not in session.config.stash:
        return None
    from .plan import plan

    reporter = session.config.pluginmanager.getplugin("terminalreporter")
    for line in ("", *plan(session.config.stash[RUN])):
        reporter.write_line(line) if reporter else print(line)  # as with -p no:terminal
    return True


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """xdist: every worker belongs to the controller's run."""
    if RUN in node.config.stash:
        node.workerinput["vmscale_run_id"] = node.config.stash[RUN].settings.run_id
        node.workerinput["vmscale_folder"] = node.config.stash[FOLDER].name


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    if RUN not in config.stash:
        return None
    from .workers import scheduling

    return scheduling(config, log, Path(config.stash[FOLDER].name))


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    output = getattr(node, "workeroutput", {})
    if found := output.get("vmscale"):
        node.config.stash[FROM_WORKERS].append(found)
    if refused := output.get("vmscale_refused"):
        node.config.stash[REFUSED] = refused


@pytest.hookimpl(optionalhook=True, tryfirst=True)
def pytest_timeout_set_timer(item: pytest.Item, settings: Any) -> bool | None:
    """pytest-timeout: write down what the fleet looks like, then fail the test; never kill the process."""
    run = item.config.stash.get(RUN, None)
    if run is None or not scenarios([item]):
        return None
    import signal
    import threading

    from .run import MeasurementFailed

    if threading.current_thread() is not threading.main_thread():
        return None

    def expired(signum: int, frame: Any) -> None:
        __tracebackhide__ = True
        path = run.dump_state(f"{item.name}: no end after {settings.timeout:g} s of wall time")
        raise MeasurementFailed(f"{item.name}: no end after {settings.timeout:g} s of wall time; the fleet's state is in {path}")

    def cancel() -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)

    item.cancel_timeout = cancel  # type: ignore[attr-defined]
    signal.signal(signal.SIGALRM, expired)
    signal.setitimer(signal.ITIMER_REAL, settings.timeout)
    return True


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What is wrong with a cluster is said in one line: our own stack tells its reader nothing."""
    report = yield
    run = item.config.stash.get(RUN, None)
    if run and call.excinfo and report.failed and scenarios([item]):
        if report.when == "setup":
            from .report.allure import label

            label([each for each in run.selected if each.marker in scenarios([item])][:1])
        line = run.trouble_line(call.excinfo.value, scenarios([item]))
        if line is None:
            # "a: b" of the first line: a verdict has sentences, not assertions of forty lines.
            run.failures.append(f"{item.name} failed ({report.when}): {call.excinfo.exconly(tryshort=True).splitlines()[0]}")
        else:
            report.longrepr = line
            if run.hopeless and not hasattr(item.config, "workerinput"):
                item.session.shouldstop = "the cluster is not fit"  # once is enough
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Who interrupts the removal of one suite's fleet wants no other suite to begin."""
    done = yield
    run = item.config.stash.get(RUN, None)
    if run and run.interrupted:
        item.session.shouldstop = "interrupted"
    return done


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """The last seconds, in which the verdict is written: there is nothing left to interrupt."""
    import signal
    import threading

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {each: signal.signal(each, signal.SIG_IGN) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


@pytest.hookimpl(wrapper=True, trylast=True)  # around the tear-down of fixtures, so that the verdict knows of the clean-up
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> Generator[None, None, None]:
    config = session.config
    run = config.stash.get(RUN, None)
    try:
        yield
    except KeyboardInterrupt:  # whoever interrupts that, too, is still told what is left
        if run is None:
            raise
    if run is None:
        return
    if REFUSED in config.stash:
        session.exitstatus = pytest.ExitCode.USAGE_ERROR
        return
    with undisturbed():
        outcome = run.finish(interrupted=run.interrupted or (exitstatus == pytest.ExitCode.INTERRUPTED and not run.unfit))
    if outcome is None:
        outcome = next((each for each in config.stash[FROM_WORKERS]), None)
    if outcome is None:
        return
    if hasattr(config, "workerinput"):
        config.workeroutput["vmscale"] = outcome  # type: ignore[attr-defined]
        return
    config.stash[FROM_WORKERS][:] = [outcome]
    allure_folder = config.getoption("allure_report_dir", None)
    if allure_folder:
        run.write_allure_environment(allure_folder, outcome)
    # What was measured is judged whole, also where -k or -x left out the test of the objective that broke.
    if outcome["exit_code"] > 1 or session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.INTERRUPTED):
        session.exitstatus = outcome["exit_code"]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if refused := config.stash.get(REFUSED, None):
        terminalreporter.line(f"ERROR: {refused}", red=True)
    outcomes: list[dict[str, Any]] = config.stash.get(FROM_WORKERS, [])
    for outcome in outcomes:
        terminalreporter.section("scale acceptance")
        for line in outcome["lines"]:
            verdict = line.startswith("Verdict:")
            terminalreporter.line(
                line,
                bold=verdict,
                green=verdict and outcome["exit_code"] == 0,
                red=verdict and outcome["exit_code"] == 1,
                yellow=verdict and outcome["exit_code"] > 1,
            )
