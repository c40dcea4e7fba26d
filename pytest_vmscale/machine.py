"""What a run needs of the machine that it is started on: files and folders, addresses, a timing profile that can be used."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from .settings import Settings, SettingsError

if TYPE_CHECKING:
    import pytest

LOOPBACK_ADDRESSES = 65_000  # the embedded cluster gives each guest an address of one 127.x.0.0/16
OTHER_DESCRIPTORS = 300  # API connections, watches, log files and libraries, beside one for each VM


def check_files(found: Settings) -> None:
    """The files that a run will need, and the folder that it will write to. SettingsError."""
    ssh = found.site.ssh
    jump = ssh.jump_host if found.ssh_via == "jump" else None
    for key, path in (
        ("ssh.key", ssh.key),
        ("ssh.jump_host.key", jump.key if jump else None),
        ("ssh.jump_host.known_hosts", jump.known_hosts if jump else None),
    ):
        if path and not path.expanduser().is_file():
            raise SettingsError(f"{found.site_file}: {key} {path}: no such file")
    kept_key = found.kept_key
    if kept_key and not kept_key.is_file():
        raise SettingsError(
            f"--reuse-fleet {found.reuse_fleet}: its SSH key {kept_key} is not there; give the --results-dir of that run, or the key as ssh.key in vmscale.yaml"
        )
    if found.results.exists():
        raise SettingsError(f"--run-id {found.run_id}: {found.results} has the results of a run of this name; give another")
    _check_folder("--results-dir", found.results_dir, found.results_dir)


def check_reports(config: pytest.Config) -> None:
    """Where pytest and Allure are to write: that they cannot would show only after hours of measuring. SettingsError."""
    if allure := config.getoption("allure_report_dir", None):
        _check_folder("--alluredir", allure, Path(allure))
    if junit := config.getoption("xmlpath", None):
        _check_folder("--junitxml", junit, Path(junit).parent)
        if Path(junit).exists() and not os.access(junit, os.W_OK):
            raise SettingsError(f"--junitxml {junit}: cannot be written to")


def _check_folder(option: str, given: str | Path, folder: Path) -> None:
    """That files can be made in it; if it is not there yet, in what it will be made in. SettingsError."""
    folder = folder.expanduser().absolute()
    there = next(each for each in (folder, *folder.parents) if each.exists())
    try:
        tempfile.TemporaryFile(dir=there).close()  # os.access would tell root that it may write to /proc
    except OSError:
        raise SettingsError(f"{option} {given}: {there} is no folder that can be written to") from None


def check_limits(found: Settings) -> None:
    """Each VM takes an address and a listening socket of this machine. SettingsError says what to raise."""
    if found.cluster != "embedded":
        return
    if found.largest > LOOPBACK_ADDRESSES:
        raise SettingsError(
            f"--vms {found.largest}: the embedded cluster has {LOOPBACK_ADDRESSES} loopback addresses for guests; use a real cluster, or fewer VMs"
        )
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = found.largest + OTHER_DESCRIPTORS
    if hard != resource.RLIM_INFINITY and needed > hard:
        raise SettingsError(
            f"--vms {found.largest}: needs {needed} open files, and this machine allows {hard}; raise the hard limit (ulimit -Hn {needed}), or use fewer VMs"
        )


def check_simulation(found: Settings) -> None:
    """Have the embedded cluster's own program check its profile and faults, before anything is started."""
    simulation = found.simulation
    if found.cluster != "embedded" or (simulation.profile == "reference" and not simulation.faults):
        return
    command = [sys.executable, "-m", "pytest_vmscale.embedded", "--check", "--profile", simulation.profile]
    for fault in simulation.faults:
        command += ["--fault", fault]
    checked = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    if checked.returncode:
        told = checked.stderr.strip().splitlines() or [f"exit code {checked.returncode}"]
        raise SettingsError(
            told[-1].removeprefix("embedded cluster: ").replace("--profile", "--sim-profile").replace("--fault", "--sim-fault")
        )
