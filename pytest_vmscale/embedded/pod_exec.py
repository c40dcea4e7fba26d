"""The exec and attach subresources of pods: commands in containers, as far as the guests' shell knows them, and a launcher's virsh."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from .api.errors import ApiError
from .api.server import ApiServer
from .api.store import Change, Object
from .controllers.common import Cluster, controller_of, decoded
from .controllers.pod_logs import container_of
from .controllers.pods import is_launcher
from .disk import Disk
from .guest_ssh import Login
from .guests import GIB, Guest, Guests
from .machine import Machine
from .remote_command import STDOUT, Session, serve_websocket, wants_websocket
from .shell import Shell
from .shell_commands import COMMANDS, Exit, Streams
from .spdy import serve_spdy, wants_spdy
from .virsh import Domain, virsh_of

SHELLS = ("sh", "bash")
DEBUGGED = b'"debug.openshift.io/source-resource"'  # on the pods that oc debug makes
CONTAINER_DISK_BYTES = 10 * GIB
NO_SUCH_PROGRAM = 255  # what CRI-O's runtime ends with
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass
class Wanted:
    """PodExecOptions, or PodAttachOptions and what the container was started with."""

    container: str
    command: list[str]
    stdin: bool
    tty: bool


class Live(list[str]):
    """An output that leaves as it is written."""

    def __init__(self, send: Any) -> None:
        super().__init__()
        self._send = send

    def append(self, text: str) -> None:
        self._send(text)

    def extend(self, texts: Any) -> None:
        for text in texts:
            self._send(text)


@dataclass(eq=False)
class Container(Guest):
    """A container as its shell finds it: a machine of its own, on its node's kernel."""

    pod: str = ""
    kernel: str = ""

    @property
    def os_info(self) -> dict[str, str]:
        return {**super().os_info, "kernelRelease": self.kernel}


class PodExec:
    """Serves .../pods/NAME/exec and .../attach."""

    def __init__(self, cluster: Cluster, guests: Guests) -> None:
        self._cluster, self._resources, self._clock, self._guests = cluster, cluster.resources, cluster.clock, guests
        self._pods, self._vmis = self._resources.kind("pods"), self._resources.kind("virtualmachineinstances.kubevirt.io")
        self._nodes, self._check_seconds = self._resources.kind("nodes"), cluster.timing.kubernetes.log_check_seconds
        self._debugging: set[asyncio.Task[None]] = set()
        self._insides: dict[str, Container] = {}  # by the container's id: what was written there stays while it runs

    def serve(self, server: ApiServer) -> None:
        for name, handler in (("exec", self.exec), ("attach", self.attach)):
            server.add_subresource("", "v1", "pods", name, {"GET", "POST"}, handler, discovery={"kind": f"Pod{name.capitalize()}Options"})

        self._resources.watch(self._pods, self._changed)

    async def stop(self) -> None:
        for task in tuple(self._debugging):
            task.cancel()
        await asyncio.gather(*self._debugging, return_exceptions=True)

    # What oc debug is to run runs when its container starts; its output is the container's log.

    def _changed(self, change: Change) -> None:
        if change.type == "DELETED" or DEBUGGED not in change.new.raw:
            return
        pod = decoded(change.new)
        for status in pod.get("status", {}).get("containerStatuses") or ():
            spec = _spec_of(pod, status["name"])
            said = self._cluster.hosts.said
            if "running" in status.get("state", {}) and not spec.get("stdin") and spec.get("command", [])[:1] != ["sleep"] and status["containerID"] not in said:
                said[status["containerID"]] = []
                task = asyncio.create_task(self._debug(pod, status["name"], said[status["containerID"]]), name="oc debug")
                self._debugging.add(task)
                task.add_done_callback(self._debugging.discard)

    async def _debug(self, pod: Object, container: str, said: list[tuple[float, str]]) -> None:
        spec, text = _spec_of(pod, container), ""

        def write(channel: int, data: bytes) -> None:
            nonlocal text
            *lines, text = (text + data.decode(errors="replace")).split("\n")
            said.extend((self._clock.now(), line) for line in lines)

        wanted = Wanted(container, [*(spec.get("command") or ()), *(spec.get("args") or ())], stdin=False, tty=False)
        code = await self._run(pod, self._inside(pod, container), wanted, Session(write))
        if text:
            write(STDOUT, b"\n")
        self._cluster.hosts.pod_exited(pod["metadata"]["namespace"], pod["metadata"]["name"], code)

    async def exec(self, request: web.Request, namespace: str, name: str) -> web.StreamResponse:
        pod = self._resources.get(self._pods, namespace, name)
        wanted = self._options(request, pod)
        if not wanted.command:
            raise ApiError(400, "you must specify at least one command for the container")
        return await self._serve(request, pod, wanted, self._run)

    async def attach(self, request: web.Request, namespace: str, name: str) -> web.StreamResponse:
        """To the container's first process. A shell that waits for somebody (oc debug makes one) is talked to, and ends the pod; any
        other says nothing more, and is listened to until it has ended."""
        pod = self._resources.get(self._pods, namespace, name)
        wanted = self._options(request, pod)
        spec = _spec_of(pod, wanted.container)
        wanted.command = [*(spec.get("command") or ()), *(spec.get("args") or ())]

        async def run(pod: Object, inside: Container, wanted: Wanted, session: Session) -> int:
            if wanted.stdin and spec.get("stdin") and is_shell(wanted.command):
                code = await self._run(pod, inside, wanted, session)
                self._cluster.hosts.pod_exited(namespace, name, code)
                return code
            while (found := self._resources.find(self._pods, namespace, name)) is not None and self._running(found, wanted.container) is not None:
                await self._clock.sleep(self._check_seconds)
            return 0

        return await self._serve(request, pod, wanted, run)

    async def _serve(self, request: web.Request, pod: Object, wanted: Wanted, work: Callable[[Object, Container, Wanted, Session], Awaitable[int]]) -> web.StreamResponse:
        name = pod["metadata"]["name"]
        node = pod["spec"].get("nodeName")
        if not node:
            raise ApiError(400, f"pod {name} does not have a host assigned")
        if not self._cluster.hosts.is_up(node):
            address = pod["status"].get("hostIP", node)
            raise ApiError(500, f"error dialing backend: dial tcp {address}:10250: connect: no route to host", "", details={})
        inside = self._inside(pod, wanted.container)
        if not (wants_websocket(request) or wants_spdy(request)):
            raise ApiError(400, "Upgrade request required")

        async def run(session: Session) -> int:
            return await work(pod, inside, wanted, session)

        serve = serve_spdy if wants_spdy(request) else serve_websocket
        return await serve(request, run, stdin=wanted.stdin, tty=wanted.tty)

    @staticmethod
    def _options(request: web.Request, pod: Object) -> Wanted:
        query = request.query

        def flag(name: str) -> bool:
            return query.get(name, "false").lower() not in ("false", "0")

        wanted = Wanted(container_of(pod, query.get("container", "")), query.getall("command", []), flag("stdin"), flag("tty"))
        if not (wanted.stdin or flag("stdout") or flag("stderr")):
            raise ApiError(400, "you must specify at least 1 of stdin, stdout, stderr")
        return wanted

    @staticmethod
    def _running(pod: Object, container: str) -> Object | None:
        """The status of a container, if it runs."""
        statuses = (*(pod["status"].get("containerStatuses") or ()), *(pod["status"].get("initContainerStatuses") or ()))
        return next((each for each in statuses if each["name"] == container and "running" in each.get("state", {})), None)

    def _inside(self, pod: Object, container: str) -> Container:
        """The container as its shell finds it. 500 if it does not run."""
        status = self._running(pod, container)
        if status is None:
            raise ApiError(500, f'Internal error occurred: unable to upgrade connection: container not found ("{container}")', "InternalError")
        key = str(status["containerID"])
        if key not in self._insides:
            self._insides = {each: inside for each, inside in self._insides.items() if self._resources.find(self._pods, inside.namespace, inside.pod)}
            meta, spec = pod["metadata"], pod["spec"]
            node = self._resources.get(self._nodes, "", spec["nodeName"])
            hostname = spec["nodeName"] if spec.get("hostNetwork") else spec.get("hostname") or meta["name"]
            self._insides[key] = Container(
                meta["uid"], meta["namespace"], hostname, spec["nodeName"], "rhel", pod["status"].get("podIP", ""), Login(),
                self._clock.parse(status["state"]["running"]["startedAt"]), machine=Machine(Disk(CONTAINER_DISK_BYTES, 0), None, False, False),
                pod=meta["name"], kernel=node["status"]["nodeInfo"]["kernelVersion"])
        return self._insides[key]

    async def _run(self, pod: Object, inside: Container, wanted: Wanted, session: Session) -> int:
        shell = self._shell(pod, inside, wanted.container)
        program = wanted.command[0].rpartition("/")[2]
        if wanted.stdin and is_shell(wanted.command):
            return await self._interact(shell, session)
        streams = Streams(await session.read_all() if wanted.stdin and not session.tty else "", Live(session.out), Live(session.error))
        if program not in shell.commands:
            session.error(f'exec failed: unable to start container process: exec: "{wanted.command[0]}": executable file not found in $PATH\n')
            return NO_SUCH_PROGRAM
        try:
            return await shell.execute(wanted.command, streams)
        except Exit as end:
            return end.code

    def _shell(self, pod: Object, inside: Guest, container: str) -> Shell:
        commands = dict(COMMANDS)
        if is_launcher(pod) and container == "compute":
            commands["virsh"] = virsh_of(lambda: self._domain(pod))
        shell = Shell(inside, self._clock, "root", commands)
        shell.folder = "/"
        given = {each["name"]: str(each.get("value", "")) for each in _spec_of(pod, container).get("env") or ()}
        shell.variables.update({"PATH": PATH, "HOSTNAME": inside.name, **given})
        return shell

    def _domain(self, pod: Object) -> Domain | None:
        """What runs in this launcher now: its VMI's guest, unless that is in another launcher."""
        owner = controller_of(pod)
        namespace = pod["metadata"]["namespace"]
        vmi = self._resources.find(self._vmis, namespace, owner["name"]) if owner else None
        guest = self._guests.find(namespace, owner["name"]) if owner else None
        if vmi is None or guest is None or owner is None or vmi["metadata"]["uid"] != owner["uid"] or guest.node != pod["spec"].get("nodeName"):
            return None
        return Domain(vmi)

    async def _interact(self, shell: Shell, session: Session) -> int:
        """A shell that reads its commands as they are typed."""
        prompt = "sh-4.4# " if session.tty else ""
        session.out(prompt)
        line = ""
        while text := await session.read():
            for character in text.replace("\r\n", "\n").replace("\r", "\n") if session.tty else text:
                if session.tty and character == "\x04" and not line:
                    return shell.status
                if character != "\n":
                    line = _typed(line, character, session)
                    continue
                if session.tty:
                    session.out("\n")
                words, line = line.strip(), ""
                if words == "exit" or words.startswith("exit "):
                    return int(words[5:]) if words[5:].isdigit() else shell.status
                await self._line(shell, words, session)
                session.out(prompt)
        if line.strip():
            await self._line(shell, line, session)
        return shell.status

    @staticmethod
    async def _line(shell: Shell, line: str, session: Session) -> None:
        out, error, _ = await shell.run(line)
        for text, write in ((out, session.out), (error, session.error)):
            if text:
                write(text)


def is_shell(command: list[str]) -> bool:
    """Whether this is a shell that reads its commands: `sh`, `/bin/bash -i`, and `sh -c 'TERM=xterm /bin/sh'`, as oc rsh starts one."""
    words = command
    if len(command) == 3 and command[0].rpartition("/")[2] in SHELLS and command[1] == "-c":
        words = [each for each in command[2].split() if "=" not in each]
    return words[:1] != [] and words[0].rpartition("/")[2] in SHELLS and all(each.startswith("-") and each != "-c" for each in words[1:])


def _spec_of(pod: Object, container: str) -> Object:
    found: Object = next(each for each in (*pod["spec"]["containers"], *(pod["spec"].get("initContainers") or ())) if each["name"] == container)
    return found


def _typed(line: str, character: str, session: Session) -> str:
    """One more key: on a terminal it is echoed, and may take one back."""
    if not session.tty:
        return line + character
    if character in ("\x7f", "\b"):
        if line:
            session.out("\b \b")
        return line[:-1]
    if character == "\x03":
        session.out("^C\nsh-4.4# ")
        return ""
    session.out(character)
    return line + character
