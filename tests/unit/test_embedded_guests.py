"""Guests: who may log in, what they run, what booting at once costs them."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from typing import Any

import asyncssh
import pytest

from pytest_vmscale.embedded.clock import SimClock
from pytest_vmscale.embedded.console import Console
from pytest_vmscale.embedded.guest_ssh import Login
from pytest_vmscale.embedded.guests import Addresses, Guest, SharedStorage, system_of
from pytest_vmscale.embedded.shell import Shell

KEY = asyncssh.generate_private_key("ssh-ed25519")
PUBLIC = KEY.export_public_key().decode().strip()


def vmi(*volumes: dict[str, Any], labels: dict[str, str] | None = None, **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": "vm", "labels": labels or {}}, "spec": {"domain": {}, "volumes": list(volumes), **spec}}


def cloud_init(**source: Any) -> dict[str, Any]:
    return {"name": "c", "cloudInitNoCloud": source}


USER_DATA = f"#cloud-config\nssh_authorized_keys:\n  - {PUBLIC} somebody\n"


@pytest.mark.parametrize("volume, secrets", [
    (cloud_init(userData=USER_DATA), {}),
    (cloud_init(userDataBase64=base64.b64encode(USER_DATA.encode()).decode()), {}),
    (cloud_init(secretRef={"name": "s"}), {"s": {"data": {"userdata": base64.b64encode(USER_DATA.encode()).decode()}}}),
    ({"name": "c", "cloudInitConfigDrive": {"userData": f"#cloud-config\nusers:\n  - default\n  - name: x\n    ssh_authorized_keys: ['{PUBLIC}']\n"}}, {}),
])
def test_the_keys_of_cloud_init_may_log_in_and_no_others(volume: dict[str, Any], secrets: dict[str, Any]) -> None:
    login = Login.of(vmi(volume), secrets)
    assert login.knows(KEY)
    assert not login.knows(asyncssh.generate_private_key("ssh-ed25519"))
    assert login.password is None


def test_access_credentials() -> None:
    secret = {"data": {"key1": base64.b64encode(PUBLIC.encode()).decode()}}
    login = Login.of(vmi(accessCredentials=[{"sshPublicKey": {"source": {"secret": {"secretName": "s"}}}}]), {"s": secret})
    assert login.knows(KEY)


def test_passwords_count_unless_they_are_switched_off() -> None:
    assert Login.of(vmi(cloud_init(userData="password: pw\n")), {}).password == "pw"
    assert Login.of(vmi(cloud_init(userData="password: pw\nssh_pwauth: false\n")), {}).password is None


def test_without_cloud_init_anybody_may() -> None:
    assert Login.of(vmi({"name": "root", "dataVolume": {"name": "d"}}), {}).knows(KEY)


@pytest.mark.parametrize("data", ["#cloud-config\nssh_authorized_keys: [nonsense]\n", "}{", "", "just text"])
def test_broken_user_data_lets_nobody_in(data: str) -> None:
    login = Login.of(vmi(cloud_init(userData=data)), {})
    assert not login.knows(KEY) and login.password is None


@pytest.mark.parametrize("expected, image, labels, domain", [
    ("fedora", "quay.io/kubevirt/fedora-container-disk-images:35", {}, {}),
    ("rhel", "{'pvc': {'name': 'rhel-dv'}}", {}, {}),
    ("windows", "{'pvc': {'name': 'win10-dv'}}", {}, {}),
    ("windows", "mystery", {}, {"features": {"hyperv": {}, "acpi": {}}, "x": 1}),
    ("windows", "", {"vmscale.io/os": "windows"}, {}),
    ("linux", "mystery", {}, {}),
])
def test_what_a_guest_runs(expected: str, image: str, labels: dict[str, str], domain: dict[str, Any]) -> None:
    obj = vmi(labels=labels)
    obj["spec"]["domain"] = {**domain, "features": {"hyperv": {"relaxed": {}}}} if "features" in domain else domain
    assert system_of(obj, image) == expected


async def storm(count: int, capacity: float) -> list[float]:
    clock = SimClock(200.0)
    storage, finished = SharedStorage(clock, capacity), list[float]()
    begun = clock.now()
    for _ in range(count):
        storage.use(10.0, lambda: finished.append(clock.now() - begun))
    while len(finished) < count:
        await clock.sleep(1)
    assert not storage.users
    return finished


@pytest.mark.parametrize("count, capacity, expected", [(1, 4, 10.0), (4, 4, 10.0), (8, 4, 20.0), (40, 4, 100.0)])
def test_guests_share_the_storage(count: int, capacity: float, expected: float) -> None:
    """A lower bound alone, and of the last: the machine that runs the test may be late, and then some begin later than others."""
    finished = asyncio.run(storm(count, capacity))
    assert len(finished) == count
    assert max(finished) >= expected - 1e-6


def test_one_that_comes_later_slows_those_before_it() -> None:
    joined, finished = asyncio.run(late_comer())
    assert finished["short"] >= joined + 10.0 - 1e-6  # half the speed
    assert finished["long"] >= 25.0 - 1e-6
    assert finished["short"] < finished["long"]


async def late_comer() -> tuple[float, dict[str, float]]:
    clock = SimClock(200.0)
    storage, finished = SharedStorage(clock, 1), dict[str, float]()
    begun = clock.now()
    storage.use(20.0, lambda: finished.setdefault("long", clock.now() - begun))
    await clock.sleep(5)
    joined = clock.now() - begun
    storage.use(5.0, lambda: finished.setdefault("short", clock.now() - begun))
    while len(finished) < 2:
        await clock.sleep(1)
    return joined, finished


def test_addresses_are_used_again_only_when_there_are_no_new_ones() -> None:
    addresses = Addresses(9)
    first = addresses.take()
    addresses.give_back(first)
    rest = [addresses.take() for _ in range(254 * 254 - 1)]
    assert first == "127.9.1.1" and first not in rest and len(set(rest)) == len(rest)
    assert addresses.take() == first
    with pytest.raises(RuntimeError, match="in use"):
        addresses.take()


def run(line: str) -> tuple[str, str, int]:
    async def inside() -> tuple[str, str, int]:
        clock = SimClock(100.0)
        guest = Guest("11111111-2222-4333-8444-555555555555", "ns", "vm1", "worker-000", "rhel", "127.9.1.1", Login(anybody=True), clock.now())
        return await Shell(guest, clock).run(line)

    return asyncio.run(inside())


@pytest.mark.parametrize("line, out, code", [
    ("true", "", 0),
    ("false", "", 1),
    ("echo 'a  b' c", "a  b c\n", 0),
    ("hostname", "vm1\n", 0),
    ("false && echo no", "", 1),
    ("false || echo yes; echo then", "yes\nthen\n", 0),
    ("uname -r", "4.18.0-348.el8.x86_64\n", 0),
    ("sudo -n true", "", 0),
    ("cat /etc/hostname", "vm1\n", 0),
])
def test_commands(line: str, out: str, code: int) -> None:
    assert run(line) == (out, "", code)


@pytest.mark.parametrize("line, error, code", [
    ("frobnicate -x", "sh: frobnicate: command not found\n", 127),
    ("cat /nope", "cat: /nope: No such file or directory\n", 1),
    ("echo 'a", "sh: syntax error: No closing quotation\n", 2),
    ("echo a |", "sh: syntax error: unexpected end of file\n", 2),
])
def test_what_does_not_work_says_so(line: str, error: str, code: int) -> None:
    assert run(line) == ("", error, code)


# The serial console.

def test_who_may_log_in_on_the_console() -> None:
    login = Login.of(vmi(cloud_init(userData="""#cloud-config
user: admin
password: first
chpasswd: {expire: false, list: "root:top\\nlee:odd:word\\n", users: [{name: kim, password: plain, type: text}, {name: ann, password: "$6$x", type: hash}]}
users: [default, {name: bob, plain_text_passwd: open, lock_passwd: false}, {name: eve, plain_text_passwd: shut}]
""")), {})
    assert login.user == "admin"
    known = {"admin": "first", "root": "top", "lee": "odd:word", "kim": "plain", "bob": "open"}
    assert all(login.lets_in(user, password, "admin") for user, password in known.items())
    assert not login.lets_in("fedora", "first", "admin")  # who is not cloud-init's first user
    assert not any(login.lets_in(user, password, "admin") for user, password in (("eve", "shut"), ("ann", "$6$x"), ("root", "first"), ("bob", "")))


def test_a_console_shows_the_kernels_messages_as_they_come_and_none_that_came_before() -> None:
    async def inside() -> tuple[str, str]:
        clock, heard = SimClock(100.0), [b"", b""]
        guest = Guest("11111111-2222-4333-8444-555555555555", "ns", "vm1", "worker-000", "rhel", "127.9.1.1", Login(anybody=True), clock.now())
        console = Console(guest, clock)

        def write(number: int) -> Callable[[bytes], None]:
            return lambda data: heard.__setitem__(number, heard[number] + data)

        console.connect(write(0), lambda: None)
        await clock.sleep(5.0)
        console.connect(write(1), lambda: None)
        await clock.sleep(5.0)
        return heard[0].decode(), heard[1].decode()

    early, late = asyncio.run(inside())
    assert early.endswith("[    2.100000] systemd[1]: Set hostname to <vm1>.\r\n") and "\r\n[    1.400000] virtio_blk" in early
    assert late == ""
