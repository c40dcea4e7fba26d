"""Timing profiles: read, checked, extended."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from pytest_vmscale.embedded import timing


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_the_reference_says_where_every_value_comes_from() -> None:
    reference = timing.load()
    document = yaml.safe_load((timing.PROFILES_FOLDER / "reference.yaml").read_text())
    names = {f"{section}.{entry}" for section, entries in document.items() if section != "description" for entry in entries}
    assert names == set(reference.sources)
    assert all(reference.sources.values())
    assert reference.virt_controller.client_qps == document["virt_controller"]["client_qps"]["value"]


def test_every_value_is_read() -> None:
    sources = "".join(path.read_text() for path in timing.PROFILES_FOLDER.parent.rglob("*.py"))
    read = set(re.findall(r"\.(\w+)", sources))
    assert [name for name in timing.load().sources if not set(name.split(".")) <= read] == []


@pytest.mark.parametrize("name", timing.profiles())
def test_every_profile_that_is_shipped_can_be_used(name: str) -> None:
    assert timing.load(name).description


def test_a_profile_changes_what_it_says_and_keeps_the_rest() -> None:
    reference, fast = timing.load(), timing.load("fast-control-plane")
    assert fast.virt_controller.client_qps > reference.virt_controller.client_qps
    assert fast.guests.boot_seconds == reference.guests.boot_seconds
    assert fast.sources["virt_controller.client_qps"] != reference.sources["virt_controller.client_qps"]


def test_a_profile_can_be_a_file(tmp_path: Path) -> None:
    path = write(tmp_path, "mine.yaml", "extends: slow-storage\nvirt_controller:\n  vm_workers: {value: 7, source: mine}\n")
    mine = timing.load(str(path))
    assert mine.virt_controller.vm_workers == 7
    assert mine.guests.boots_at_full_speed == timing.load("slow-storage").guests.boots_at_full_speed


@pytest.mark.parametrize("text, complaint", [
    ("extends: reference\nvirt_controler:\n  vm_workers: {value: 7, source: x}\n", r"mine.yaml:2: reference has no section virt_controler; did you mean virt_controller\?"),
    ("extends: reference\nguests:\n  boot_second: {value: {}, source: x}\n", r"mine.yaml:3: reference has no entry guests.boot_second; did you mean boot_seconds\?"),
    ("extends: reference\nguests:\n\n  boot_spread: 7\n", r"mine.yaml:4: guests.boot_spread must be \{value: ..., source: ...\}"),
    ("extends: reference\nguests:\n  boot_spread: {value: 7, source: ''}\n", r"mine.yaml:3: guests.boot_spread needs a source"),
    ("extends: reference\nguests:\n  boot_spread: {value: fast, source: x}\n", r"mine.yaml:3: guests.boot_spread must be like 0.04, not 'fast'"),
    ("extends: reference\nguests:\n  boot_spread: {value: -1, source: x}\n", r"mine.yaml:3: guests.boot_spread must not be negative"),
    ("extends: reference\nguests: 3\n", r"mine.yaml:2: guests must be a mapping"),
    ("guests: {}\n", r"says `extends: reference`"),
    ("extends: mine.yaml\n", "extends itself"),
    ("extends: other.yaml\n", r"other\.yaml: no such file$"),
    ("- 1\n", "a profile is a mapping"),
    ("a: [\n", r"mine\.yaml:2: is not YAML: [^\n]+$"),
    ("a:\n\tb: 1\n", r"mine\.yaml:2: is not YAML: [^\n]+$"),
])
def test_what_is_wrong_is_named_with_its_line(tmp_path: Path, text: str, complaint: str) -> None:
    path = write(tmp_path, "mine.yaml", text)
    with pytest.raises(timing.TimingError, match=complaint):
        timing.load(str(path))


def test_what_a_file_extends_is_beside_it(tmp_path: Path) -> None:
    write(tmp_path, "base.yaml", "extends: reference\nvirt_controller:\n  vm_workers: {value: 7, source: mine}\n")
    assert timing.load(str(write(tmp_path, "mine.yaml", "extends: base.yaml\n"))).virt_controller.vm_workers == 7


def test_a_profile_that_extends_itself(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    write(tmp_path, "mine.yaml", f"extends: {path}\n")
    with pytest.raises(timing.TimingError, match="extends itself"):
        timing.load(str(path))


def test_an_unknown_profile_names_those_there_are() -> None:
    with pytest.raises(timing.TimingError, match=r"^fsat: is no timing profile; there are .*fast-control-plane.*reference"):
        timing.load("fsat")


def test_an_unknown_entry_is_no_silent_none() -> None:
    with pytest.raises(AttributeError, match="no entry guests.speed"):
        _ = timing.load().guests.speed
    with pytest.raises(KeyError):
        timing.load().replaced("guests", speed=1)


def test_the_slower_release_stays_slower_than_the_reference_whatever_that_is_calibrated_to() -> None:
    """A migration is its stream, but for half a second: 20 % longer."""
    reference, regressed = timing.load(), timing.load("regressed")
    streams = [each.migration.stream_bytes_per_second for each in (reference, regressed)]
    assert streams[0] / streams[1] == pytest.approx(1.21, abs=0.02)
    assert regressed.guests.agent_report_seconds[:5] < reference.guests.agent_report_seconds
    assert {name for name in regressed.sources if regressed.sources[name] != reference.sources[name]} == {
        "guests.agent_report_seconds",
        "migration.stream_bytes_per_second",
    }
