"""The serial console and port forwarding as virtctl uses them: a WebSocket behind a bearer token."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from .test_kubevirt import DEADLINE_WALL_SECONDS, Cluster, answers, fresh, started, vm

PROTOCOL = "plain.kubevirt.io"
ABNORMAL_CLOSURE = 1006  # what virtctl reads as "another user connected to the console"


@pytest.fixture(scope="module")
def kubeconfig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with started(tmp_path_factory.mktemp("console")) as path:
        yield path


@pytest.fixture(scope="module")
def booted(kubeconfig: Path) -> Cluster:
    """A cluster whose VM "b" has booted. Tests log in and leave."""
    cluster = fresh(kubeconfig)
    cluster.create("virtualmachines", vm("b", "Always"))
    cluster.running("b")
    cluster.until(lambda: answers(cluster, cluster.address("b")))
    return cluster


@pytest.fixture
def cluster(kubeconfig: Path) -> Cluster:
    return fresh(kubeconfig)


class Terminal:
    """A client of a console, and all that it has read."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket, self.text = socket, ""

    async def expect(self, text: str, within_seconds: float = DEADLINE_WALL_SECONDS) -> str:
        """Read until this comes; what was read up to its end since the last call. TimeoutError if it does not."""
        end = time.monotonic() + within_seconds
        while text not in self.text:
            message = await self.socket.receive(timeout=end - time.monotonic())
            assert message.type is aiohttp.WSMsgType.BINARY, f"{text!r} did not come, but {self.text!r} and {message}"
            self.text += message.data.decode()
        found, _, self.text = self.text.partition(text)
        return found + text

    async def send(self, text: str) -> None:
        await self.socket.send_bytes(text.encode())

    async def log_in(self, user: str = "fedora", password: str = "secret") -> None:
        await self.send("\n")
        await self.expect("login: ")
        await self.send(f"{user}\n")
        assert await self.expect("Password: ") == f"{user}\r\nPassword: "
        await self.send(f"{password}\n")


@asynccontextmanager
async def console(cluster: Cluster, name: str, version: str = "v1", what: str = "console", plural: str = "virtualmachineinstances") -> AsyncIterator[Terminal]:
    url = f"{cluster.server}/apis/subresources.kubevirt.io/{version}/namespaces/{cluster.namespace}/{plural}/{name}/{what}"
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {cluster.token}"}) as session, \
            session.ws_connect(url, protocols=(PROTOCOL,), ssl=cluster.context) as socket:
        yield Terminal(socket)


def talk(talking: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(talking())


def refusal(cluster: Cluster, path: str) -> tuple[int, Any]:
    return cluster.ask("GET", f"/apis/subresources.kubevirt.io/v1/namespaces/{cluster.namespace}/{path}")


@pytest.mark.parametrize("version", ["v1", "v1alpha3"])
def test_a_login_on_the_console(booted: Cluster, version: str) -> None:
    async def talking() -> None:
        async with console(booted, "b", version) as terminal:
            assert terminal.socket.protocol == PROTOCOL
            await terminal.log_in()
            await terminal.expect("[fedora@b ~]$ ")
            await terminal.send("echo 'a  b'\n")
            assert await terminal.expect("$ ") == "echo 'a  b'\r\na  b\r\n[fedora@b ~]$ "
            await terminal.send("nonsense; hostname\r")
            assert await terminal.expect("$ ") == "nonsense; hostname\r\nb\r\nsh: nonsense: command not found\r\n[fedora@b ~]$ "
            await terminal.send("exit\n")
            assert "Fedora Linux 35 (Cloud Edition)\r\n" in await terminal.expect("b login: ")

    talk(talking)


@pytest.mark.parametrize("user, password", [("fedora", "wrong"), ("nobody", "secret"), ("root", "")])
def test_who_does_not_get_in(booted: Cluster, user: str, password: str) -> None:
    async def talking() -> None:
        async with console(booted, "b") as terminal:
            await terminal.log_in(user, password)
            assert await terminal.expect("login: ") == "\r\n\r\nLogin incorrect\r\nb login: "

    talk(talking)


def test_keys_that_edit_the_line(booted: Cluster) -> None:
    async def talking() -> None:
        async with console(booted, "b") as terminal:
            await terminal.log_in()
            await terminal.expect("$ ")
            await terminal.send("echo bad\x7f\x7f\x7fgood\n")
            assert (await terminal.expect("$ ")).endswith("\r\ngood\r\n[fedora@b ~]$ ")
            await terminal.send("echo never\x03")
            assert await terminal.expect("$ ") == "echo never^C\r\n[fedora@b ~]$ "
            await terminal.send("\x04")
            await terminal.expect("b login: ")

    talk(talking)


def test_a_login_outlives_its_connection(booted: Cluster) -> None:
    """A serial line does not tell the guest who left."""
    async def talking() -> None:
        async with console(booted, "b") as terminal:
            await terminal.log_in()
            await terminal.expect("$ ")
        async with console(booted, "b") as terminal:
            await terminal.send("whoami\n")
            await terminal.expect("$ ")
            await terminal.send("exit\n")
            await terminal.expect("b login: ")

    talk(talking)


def test_the_next_client_cuts_off_the_last(booted: Cluster) -> None:
    async def talking() -> None:
        async with console(booted, "b") as first:
            await first.send("\n")
            await first.expect("login: ")
            async with console(booted, "b") as second:
                assert (await first.socket.receive(timeout=DEADLINE_WALL_SECONDS)).type in (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR)
                assert first.socket.close_code == ABNORMAL_CLOSURE
                await second.send("\n")
                await second.expect("login: ")

    talk(talking)


def test_a_guest_boots_shuts_down_and_hangs_up(cluster: Cluster) -> None:
    cluster.create("virtualmachines", vm("c", "Always"))
    cluster.running("c")

    async def talking() -> None:
        async with console(cluster, "c") as terminal:
            boot = await terminal.expect("c login: ")
            assert boot.index("[  OK  ] Started OpenSSH server daemon.") < boot.index("Fedora Linux 35")
            assert (await asyncio.to_thread(cluster.action, "c", "stop"))[0] == 202
            await terminal.expect("Reached target Power-Off.")
            while (await terminal.socket.receive(timeout=DEADLINE_WALL_SECONDS)).type is aiohttp.WSMsgType.BINARY:
                pass
            assert terminal.socket.close_code == ABNORMAL_CLOSURE

    talk(talking)


def test_a_guest_that_never_boots_has_no_login(tmp_path: Path) -> None:
    with started(tmp_path, "--fault", "guests-never-boot=1") as path:
        cluster = fresh(path)
        cluster.create("virtualmachines", vm("n", "Always"))
        cluster.running("n")

        async def talking() -> None:
            async with console(cluster, "n") as terminal:
                await terminal.send("\n")
                with pytest.raises(TimeoutError):
                    await terminal.expect("login:", within_seconds=1.0)

        talk(talking)


def test_a_paused_guest_answers_when_it_goes_on(cluster: Cluster) -> None:
    cluster.create("virtualmachines", vm("p", "Always"))
    cluster.running("p")
    cluster.until(lambda: answers(cluster, cluster.address("p")))
    assert cluster.action("p", "pause", "virtualmachineinstances")[0] == 202

    async def talking() -> None:
        async with console(cluster, "p") as terminal:
            await terminal.send("\n")
            with pytest.raises(TimeoutError):
                await terminal.socket.receive(timeout=0.5)
            assert (await asyncio.to_thread(cluster.action, "p", "unpause", "virtualmachineinstances"))[0] == 202
            await terminal.expect("login: ")

    talk(talking)


def without_console(name: str) -> dict[str, Any]:
    obj = vm(name, "Always")
    obj["spec"]["template"]["spec"]["domain"]["devices"]["autoattachSerialConsole"] = False
    return obj


def test_consoles_that_cannot_be(booted: Cluster, cluster: Cluster) -> None:
    code, status = refusal(cluster, "virtualmachineinstances/none/console")
    assert (code, status["message"]) == (404, 'virtualmachineinstance.kubevirt.io "none" not found')
    unschedulable = vm("u", "Always")
    unschedulable["spec"]["template"]["spec"]["nodeSelector"] = {"no": "such-node"}
    cluster.create("virtualmachines", unschedulable)
    cluster.until(lambda: cluster.get("virtualmachineinstances", "u"))
    code, status = refusal(cluster, "virtualmachineinstances/u/console")
    assert (code, status["reason"], status["message"]) == (400, "BadRequest", "VMI is not running")
    cluster.create("virtualmachines", without_console("s"))
    cluster.running("s")
    code, status = refusal(cluster, "virtualmachineinstances/s/console")
    assert (code, status["message"]) == (400, "No serial consoles are present.")
    code, status = refusal(booted, "virtualmachineinstances/b/console")
    assert code == 400 and "not using the websocket protocol" in status["message"]
    code, _ = refusal(booted, "virtualmachineinstances/b/vnc")  # these guests have no display to show
    assert code == 404


def test_port_forwarding_that_virt_api_refuses(cluster: Cluster) -> None:
    cluster.create("virtualmachines", vm("h"))
    cluster.until(lambda: cluster.status("h") == "Stopped")
    code, status = refusal(cluster, "virtualmachines/h/portforward/22")
    assert (code, status["message"]) == (409, 'Operation cannot be fulfilled on virtualmachine.kubevirt.io "h": VMI is not started')
    cluster.create("virtualmachines", vm("p", "Always"))
    cluster.running("p")
    cluster.until(lambda: answers(cluster, cluster.address("p")))
    code, status = refusal(cluster, "virtualmachineinstances/p/portforward/22")
    assert code == 400 and "not using the websocket protocol" in status["message"]
    assert cluster.action("p", "pause", "virtualmachineinstances")[0] == 202
    code, status = refusal(cluster, "virtualmachineinstances/p/portforward/22")
    assert (code, status["message"]) == (409, 'Operation cannot be fulfilled on virtualmachineinstance.kubevirt.io "p": VMI is paused')


def test_discovery_lists_them(booted: Cluster) -> None:
    names = {each["name"] for each in booted.ask("GET", "/apis/subresources.kubevirt.io/v1")[1]["resources"]}
    assert {"virtualmachineinstances/console", "virtualmachineinstances/portforward", "virtualmachines/portforward"} <= names


# What else virtctl asks of a guest.


def test_what_the_guest_agent_tells(booted: Cluster) -> None:
    vmi = "virtualmachineinstances/b"
    booted.until(lambda: refusal(booted, f"{vmi}/guestosinfo")[0] == 200)
    code, told = refusal(booted, f"{vmi}/guestosinfo")
    assert (told["hostname"], told["os"]["id"], told["guestAgentVersion"]) == ("b", "fedora", "4.2.0")
    code, listed = refusal(booted, f"{vmi}/filesystemlist")
    (root,) = listed["items"]
    assert code == 200 and (root["mountPoint"], root["fileSystemType"]) == ("/", "btrfs") and 0 < root["usedBytes"] < root["totalBytes"]
    assert told["fsInfo"]["disks"] == [root]

    async def talking() -> None:
        async with console(booted, "b") as terminal:
            await terminal.log_in()
            await terminal.expect("$ ")
            (user,) = refusal(booted, f"{vmi}/userlist")[1]["items"]
            seen.append(user["userName"])
            await terminal.send("exit\n")
            await terminal.expect("b login: ")

    seen: list[str] = []
    assert refusal(booted, f"{vmi}/userlist") == (200, {"metadata": {}, "items": []})
    talk(talking)
    assert seen == ["fedora"] and refusal(booted, f"{vmi}/userlist")[1]["items"] == []


@pytest.mark.parametrize("what", ["guestosinfo", "userlist", "filesystemlist"])
def test_without_an_agent_nothing_is_told(cluster: Cluster, what: str) -> None:
    """virt-api refuses what is only read in plain text, and always with 500."""
    vmi = f"virtualmachineinstances/new/{what}"
    assert refusal(cluster, vmi) == (500, 'virtualmachineinstance.kubevirt.io "new" not found')
    cluster.create("virtualmachines", vm("new", "Always"))
    cluster.until(lambda: cluster.get("virtualmachineinstances", "new"))
    assert refusal(cluster, vmi) == (500, 'Operation cannot be fulfilled on virtualmachineinstance.kubevirt.io "new": VMI is not running')


@pytest.mark.parametrize("version", ["v1", "v1alpha3"])
def test_which_kubevirt_it_is(cluster: Cluster, version: str) -> None:
    code, told = cluster.ask("GET", f"/apis/subresources.kubevirt.io/{version}/version")
    assert code == 200 and told["gitVersion"] == "v0.44.3" and {"gitCommit", "buildDate", "goVersion", "platform"} <= set(told)
