"""`vmscale`: the embedded cluster by hand, checks of files, and cleaning up after a run that was killed."""

from __future__ import annotations

import argparse
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from . import __version__

START_SECONDS = 60.0  # wall time that a cluster gets to start
STOP_SECONDS = 15.0  # wall time that a cluster gets to end before it is killed
BAD_INPUT = 4  # as pytest's own usage errors, where 1 says what was found
UNFIT = 10  # as a run ends that finds its cluster so
EXIT_CODES = (
    "Exit codes: 0 done; 1 something was found (an invalid file, a regression, what a clean-up left); 4 bad input; 10 the cluster cannot be asked;"
    " 11 something could not be compared."
)


class CommandError(Exception):
    """One line for the user, and the exit code."""

    def __init__(self, told: str, code: int = 1) -> None:
        super().__init__(told)
        self.code = code


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(BAD_INPUT, f"{self.prog}: {message}\n")  # argparse's own 2 is an interrupted run's here


def main(arguments: Sequence[str] | None = None) -> int:
    parser = Parser(
        prog="vmscale",
        description="Scale acceptance of OpenShift Virtualization; the suites themselves are run by pytest.",
        epilog=EXIT_CODES,
    )
    parser.add_argument("--version", action="version", version=f"pytest-vmscale {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="the suites, by pytest: vmscale run -m bootstorm --vms 1000", add_help=False, prefix_chars="\0")
    run.add_argument("arguments", nargs=argparse.REMAINDER)
    run.set_defaults(run=lambda options: _run(options.arguments))
    _embedded_parser(commands.add_parser("embedded", help="the embedded cluster by hand"))
    validate = commands.add_parser("validate", help="check a vmscale.yaml, an SLO profile or a result file")
    validate.add_argument(
        "file",
        type=Path,
        help="a .json file is held to the schema of its name (verdict.json, summary_*.json, *_results.json), all else is YAML",
    )
    validate.set_defaults(run=lambda options: _validate(options.file))
    cleanup = commands.add_parser("cleanup", help="remove what a run left on a cluster")
    cleanup.add_argument("--run-id", required=True, help="the run's name: the reports have it, and every object's label vmscale.io/run-id")
    cleanup.add_argument("--kubeconfig", default=os.environ.get("KUBECONFIG"), help="kubeconfig of the cluster (default: KUBECONFIG)")
    cleanup.add_argument("--context", help="the kubeconfig's context to use (default: its current one)")
    cleanup.add_argument(
        "--forget-edits",
        action="store_true",
        help="drop the old values of what somebody else has changed since; without it they are kept, and told each time",
    )
    cleanup.set_defaults(run=_cleanup)
    _slo_parser(commands.add_parser("slo", help="the SLO profiles: what they hold a cluster to"))
    _compare_parser(commands.add_parser("compare", help="is the last of these runs worse than the others"))
    _report_parser(commands.add_parser("report", help="a run's report again: in the terminal, for a chat, or as one page"))
    options = parser.parse_args(arguments)
    try:
        return int(options.run(options) or 0)
    except CommandError as error:
        print(f"vmscale: {error}", file=sys.stderr)
        return error.code
    except KeyboardInterrupt:
        print("vmscale: interrupted", file=sys.stderr)
        return 130  # as a shell has it


def suites_folder() -> Path:
    """Where suites/, fixtures/ and pytest's settings for them are: in the installed package, or in the checkout."""
    package = Path(__file__).parent
    for folder in (package / "_suites", package.parent):
        if (folder / "suites").is_dir() and (folder / "pyproject.toml").is_file():
            return folder
    raise CommandError(f"{package} has no suites: it was not installed whole")


def _run(arguments: Sequence[str]) -> int:
    """pytest on the suites, in this process's place. What it writes is written here, never beside the suites."""
    folder, here = suites_folder(), Path.cwd()
    named = [str(folder / each) if each.startswith("suites/") else each for each in arguments]
    tests = [] if named != list(arguments) else [str(folder / "suites")]
    site = []
    if (here / "vmscale.yaml").is_file() and not any(each.split("=")[0] == "--vmscale-config" for each in arguments):
        site = [f"--vmscale-config={here / 'vmscale.yaml'}"]
    command = [sys.executable, "-m", "pytest", "-c", str(folder / "pyproject.toml"), "--rootdir", str(folder)]
    os.execv(command[0], [*command, "-o", f"cache_dir={here / '.pytest_cache'}", *site, *tests, *named])


def _slo_parser(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    show = actions.add_parser("show", help="a profile with all that it builds on, as YAML; without a name, which there are")
    show.add_argument("profile", nargs="*", help="a name or a file; of several each changes the ones before it")
    show.set_defaults(run=_slo_show)
    check = actions.add_parser("check", help="is this file a profile that can be used")
    check.add_argument("file", nargs="+", type=Path, help="each is checked by itself, on top of what it extends")
    check.set_defaults(run=_slo_check)


def _compare_parser(parser: argparse.ArgumentParser) -> None:
    from .options import ALLOWED

    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="a run's folder, or one of its results files; the last is compared"
    )
    parser.add_argument("--regression-tolerance", type=float, default=5.0, metavar="PERCENT", help="what a figure may be worse by [5]")
    parser.add_argument(
        "--baseline-allow",
        action="append",
        default=[],
        metavar="WHAT",
        choices=ALLOWED,
        help=f"compare though this differs: {', '.join(ALLOWED)}",
    )
    parser.add_argument("-o", "--output", type=Path, metavar="FILE.html", help="write it as one page, with charts")
    parser.set_defaults(run=_compare)


def _report_parser(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="DIR", help="the run's folder")
    parser.add_argument("--markdown", action="store_true", help="a summary that fits into a chat message")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE.html", help="write one page that needs nothing but itself, to keep or to print"
    )
    parser.set_defaults(run=_report)


def _embedded_parser(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    up = actions.add_parser("up", help="start it; the last line of output is the kubeconfig's path")
    down = actions.add_parser("down", help="stop one that was started with --detach, or in another terminal")
    for each in (up, down):
        each.add_argument("--state-dir", type=Path, default=default_state_dir(), help="kubeconfig, keys and logs [%(default)s]")
    up.add_argument("--detach", action="store_true", help="return once it serves, and leave it running")
    up.add_argument("--speed", type=float, default=20, help="seconds of cluster time in a second [%(default)s]")
    up.add_argument("--workers", type=int, default=100, help="worker nodes [%(default)s]")
    up.add_argument("--profile", default="reference", help="name or file of the timing profile [%(default)s]")
    up.add_argument(
        "--fault",
        action="append",
        default=[],
        metavar="NAME=VALUE|FILE",
        help="make something go wrong; or a YAML plan of faults with times (may be repeated)",
    )
    up.add_argument("--seed", type=int, default=0, help="seed of everything random [%(default)s]")
    up.set_defaults(run=_up)
    down.set_defaults(run=_down)


def default_state_dir() -> Path:
    return Path(os.environ.get("XDG_STATE_HOME", Path.home() / ".local" / "state")) / "vmscale" / "embedded"


def _up(options: argparse.Namespace) -> int:
    from .cluster.embedded import embedded_command

    running = _running(options.state_dir)
    if running:
        raise CommandError(
            f"an embedded cluster is running already (process {running}); stop it with `vmscale embedded down`, or give another --state-dir"
        )
    try:
        options.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise CommandError(f"--state-dir {options.state_dir}: {error.strerror}", BAD_INPUT) from None
    command = embedded_command(
        options.state_dir,
        speed=options.speed,
        workers=options.workers,
        profile=options.profile,
        faults=options.fault,
        seed=options.seed,
        truth=options.state_dir / "truth.jsonl",
    )
    if not options.detach:
        os.environ["PYTHONUNBUFFERED"] = "1"
        _pid_file(options.state_dir).write_text(f"{os.getpid()}\n")  # exec keeps the process id
        os.execv(command[0], command)
    log_path = options.state_dir / "embedded.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, start_new_session=True, text=True)
    _pid_file(options.state_dir).write_text(f"{process.pid}\n")
    assert process.stdout is not None
    try:
        kubeconfig = process.stdout.readline().strip() if select.select([process.stdout], [], [], START_SECONDS)[0] else ""
    except BaseException:
        process.kill()
        raise
    if not kubeconfig:
        process.kill()
        code = process.wait()  # its own, if it had ended before
        told = _last_line(log_path).removeprefix("embedded cluster: ")
        raise CommandError(
            told if code == BAD_INPUT else f"the embedded cluster did not start: {told}", BAD_INPUT if code == BAD_INPUT else 1
        )
    print(kubeconfig)
    return 0


def _down(options: argparse.Namespace) -> int:
    running = _running(options.state_dir)
    if not running:
        print("no embedded cluster is running", file=sys.stderr)
        return 0
    os.kill(running, signal.SIGTERM)
    end = time.monotonic() + STOP_SECONDS
    while _running(options.state_dir) and time.monotonic() < end:
        time.sleep(0.05)
    if _running(options.state_dir):
        os.kill(running, signal.SIGKILL)
    _pid_file(options.state_dir).unlink(missing_ok=True)
    return 0


def _pid_file(state_dir: Path) -> Path:
    return state_dir / "embedded.pid"


def _running(state_dir: Path) -> int | None:
    """The process id of the cluster of this state folder. A number that another program took since is none."""
    try:
        pid = int(_pid_file(state_dir).read_text())
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (OSError, ValueError):
        return None
    return pid if b"pytest_vmscale.embedded" in words else None


def _last_line(path: Path) -> str:
    lines = path.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else f"it said nothing; see {path}"


def _validate(path: Path) -> int:
    if path.suffix == ".json":
        return _validate_results(path)
    from . import yamlfile
    from .scenarios import ALL, check_profile
    from .settings import SettingsError, load_site
    from .slo.profile import ProfileError, load_profile

    try:
        data, _ = yamlfile.read(path)
        is_profile = isinstance(data, dict) and bool({"extends", "objectives", *(each.prefix for each in ALL)} & set(data))
        if is_profile:
            check_profile(load_profile(path))
        else:
            load_site(path)
    except (yamlfile.FileError, SettingsError, ProfileError) as error:
        raise CommandError(str(error)) from None
    print(f"{path}: a valid {'SLO profile' if is_profile else 'site file'}")
    return 0


def _validate_results(path: Path) -> int:
    from .report.files import problems

    try:
        found = problems(path)
    except (OSError, ValueError) as error:
        raise CommandError(f"{path}: {error}") from None
    for problem in found:
        print(f"{path}: {problem}", file=sys.stderr)
    if not found:
        print(f"{path}: valid")
    return 1 if found else 0


def _slo_show(options: argparse.Namespace) -> int:
    import yaml

    from .scenarios import check_profile
    from .slo.profile import ProfileError, built_in_profiles, load_profile

    try:
        if not options.profile:
            for name in built_in_profiles():
                profile = load_profile(name)
                print(f"{name}: {profile.title} (+{profile.tolerance_percent:g} %)")
            return 0
        profile = load_profile(*options.profile)
        check_profile(profile)
    except ProfileError as error:
        raise CommandError(str(error), BAD_INPUT) from None
    print(yaml.safe_dump(profile.model_dump(exclude={"name"}, exclude_none=True), sort_keys=False, width=120, allow_unicode=True), end="")
    return 0


def _slo_check(options: argparse.Namespace) -> int:
    from .scenarios import check_profile
    from .slo.profile import ProfileError, load_profile

    for path in options.file:
        try:
            check_profile(load_profile(path))
        except ProfileError as error:
            raise CommandError(str(error), BAD_INPUT) from None
        print(f"{path}: a valid SLO profile")
    return 0


def _compare(options: argparse.Namespace) -> int:
    """Exit code 1: there is a regression. 11: something could not be compared."""
    from .report import comparison
    from .report.offline import comparison_page
    from .report.saved import SavedError, check_each_is_another, load_baseline

    *earlier, last = options.runs
    if not earlier:
        raise CommandError("compare: name at least two runs", BAD_INPUT)
    if not 0 <= options.regression_tolerance < float("inf"):
        raise CommandError(f"--regression-tolerance {options.regression_tolerance:g}: must be at least 0", BAD_INPUT)
    try:
        before, now = load_baseline(earlier), load_baseline([last])
        check_each_is_another([*before, *now])
    except SavedError as error:
        raise CommandError(str(error), BAD_INPUT) from None
    taken = [(each.measurement, each.conditions) for each in now]
    compared = comparison.against(taken, before, options.regression_tolerance, options.baseline_allow)
    lines = comparison.lines(compared, everything=True)
    print("\n".join(lines))
    if options.output:
        _write(options.output, comparison_page(compared, now, before))
    return 1 if compared.regressions else 11 if compared.troubles else 0


def _report(options: argparse.Namespace) -> int:
    from .report import offline
    from .report.saved import SavedError

    try:
        run = offline.read(options.folder)
    except SavedError as error:
        raise CommandError(str(error), BAD_INPUT) from None
    if options.output:
        _write(options.output, offline.report_page(run))
    if options.markdown:
        print(offline.markdown(run), end="")
    elif not options.output:
        print("\n".join(offline.lines(run)))
    return 0


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise CommandError(f"-o {path}: {error.strerror}", BAD_INPUT) from None


def _cleanup(options: argparse.Namespace) -> int:
    from .cleanup import remove_run
    from .cluster.access import ClusterError, look_at
    from .settings import SettingsError, check_run_id

    try:
        check_run_id("--run-id", options.run_id)
        if not options.kubeconfig:
            raise SettingsError("no cluster is named: give --kubeconfig, or set KUBECONFIG")
        look_at(options.kubeconfig, options.context)
    except (ClusterError, SettingsError) as error:
        raise CommandError(str(error), BAD_INPUT) from None
    try:
        removal = remove_run(options.run_id, options.kubeconfig, options.context, forget_edits=options.forget_edits)
    except ClusterError as error:
        raise CommandError(str(error), UNFIT) from None
    undone = f", undid {removal.undone} changes" if removal.undone else ""
    print(f"removed {removal.deleted} objects of run {options.run_id}{undone}")
    for line in removal.left:
        print(f"left behind: {line}", file=sys.stderr)
    return 1 if removal.left else 0


if __name__ == "__main__":
    sys.exit(main())
