"""A guest's first serial port: what it writes while it boots, and the getty and login shell that it then has there."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from .clock import SimClock
from .shell import Shell

if TYPE_CHECKING:
    from .guests import Guest

# Cloud-init's first user of each image. Windows has no getty: its port is silent.
DEFAULT_USERS = {"rhel": "cloud-user", "fedora": "fedora", "cirros": "cirros", "linux": "cloud-user"}
# Seconds of cluster time since the start, as the kernel stamps its messages with them.
KERNEL_MESSAGES = (
    (0.0, "Linux version {kernelRelease} {kernelVersion}"),
    (0.0, "Command line: root=/dev/vda ro console=tty0 console=ttyS0,115200n8"),
    (0.2, "Hypervisor detected: KVM"),
    (0.9, "Serial: 8250/16550 driver, 4 ports, IRQ sharing enabled"),
    (1.4, "virtio_blk virtio2: [vda] attached"),
    (2.1, "systemd[1]: Detected virtualization kvm."),
    (2.1, "systemd[1]: Set hostname to <{hostname}>."),
)
USERSPACE_MESSAGES = ("Mounted Root File System.", "Reached target Local File Systems.", "Reached target Network.", "Started OpenSSH server daemon.")
SHUTDOWN_MESSAGES = ("Stopped OpenSSH server daemon.", "Stopped target Network.", "Reached target Power-Off.")
INTERRUPT, END_OF_FILE, ERASE_LINE, ERASE = "\x03", "\x04", "\x15", ("\x7f", "\b")


class Console:
    """What it writes while nobody is connected is lost, as on any serial line; the getty goes on from where it was."""

    def __init__(self, guest: Guest, clock: SimClock) -> None:
        self._guest, self._clock = guest, clock
        self._client: Client | None = None
        self._following: asyncio.Task[None] | None = None
        self._user = ""  # who was named at `login:`
        self._logged_in = False
        self._login = contextlib.ExitStack()  # what is to be undone at logout
        self._line = ""
        self._last = ""
        self._runs = asyncio.Event()
        self.resume()

    @property
    def user(self) -> str:
        """Who logs in here unless cloud-init names another."""
        return self._guest.login.user or DEFAULT_USERS.get(self._guest.system, "")

    def connect(self, write: Callable[[bytes], None], hang_up: Callable[[], None]) -> Client:
        """The client that was there before is hung up on."""
        self.hang_up()
        self._client = Client(self, write, hang_up)
        if not self._guest.answers:
            self._following = asyncio.create_task(self._follow_boot(), name="console")
        return self._client

    def disconnect(self, client: Client) -> None:
        if client is self._client:
            self._client = None
            if self._following:
                self._following.cancel()
                self._following = None

    def hang_up(self) -> None:
        """Cut off whoever is connected."""
        client = self._client
        if client:
            self.disconnect(client)
            client.hang_up()

    # What the guest writes of itself.

    async def _follow_boot(self) -> None:
        """The kernel's messages from now on, as they come; userspace's come when it has read its disk."""
        if self._guest.system == "windows":
            return
        connected_at = self._clock.now()
        for seconds, text in KERNEL_MESSAGES:
            at = self._guest.started_at + seconds
            if at >= connected_at:
                await self._clock.sleep_until(at)
                self._write(f"[{seconds:12.6f}] {text.format(hostname=self._guest.name, **self._guest.os_info)}\n")

    def disk_read(self) -> None:
        """Userspace starts."""
        self._tell(USERSPACE_MESSAGES)

    def booted(self) -> None:
        """The getty starts."""
        self._line, self._user, self._logged_in = "", "", False
        if self._guest.system != "windows":
            self._issue()

    def shutting_down(self) -> None:
        """The getty ends; its login with it."""
        self._tell(SHUTDOWN_MESSAGES)

    def resume(self) -> None:
        """The guest was paused, or goes on."""
        if self._guest.paused:
            self._runs.clear()
        else:
            self._runs.set()

    def _tell(self, messages: tuple[str, ...]) -> None:
        if self._guest.system != "windows":
            self._write("".join(f"[  OK  ] {each}\n" for each in messages))

    def _issue(self) -> None:
        info = self._guest.os_info
        self._write(f"\n{info['prettyName']}\nKernel {info['kernelRelease']} on an {info['machine']} (ttyS0)\n\n{self._guest.name} login: ")

    def _write(self, text: str) -> None:
        if self._client:
            self._client.write(text.replace("\n", "\r\n").encode())

    # The terminal, the getty and the shell.

    async def type(self, data: bytes) -> None:
        """What a client typed. Returns when it is answered. Lost where nobody reads it: while the guest boots, and on Windows."""
        await self._runs.wait()
        if not self._guest.answers or self._guest.system == "windows":
            return
        for character in data.decode(errors="replace"):
            ends_line = character == "\r" or (character == "\n" and self._last != "\r")
            follows_return = character == "\n" and self._last == "\r"
            self._last = character
            if ends_line:
                line, self._line = self._line, ""
                self._write("\n")
                await self._enter(line)
            elif not follows_return:
                self._edit(character)

    def _edit(self, character: str) -> None:
        """One key of the line discipline: echoed, but for a password."""
        secret = bool(self._user) and not self._logged_in
        if character in ERASE:
            if self._line:
                self._line = self._line[:-1]
                self._write("" if secret else "\b \b")
        elif character == ERASE_LINE:
            self._write("" if secret else "\b \b" * len(self._line))
            self._line = ""
        elif character == INTERRUPT:
            self._line = ""
            self._write("^C\n")
            self._prompt()
        elif character == END_OF_FILE:
            if not self._line:
                self._log_out()
        elif character.isprintable() or character == "\t":
            self._line += character
            self._write("" if secret else character)

    async def _enter(self, line: str) -> None:
        if self._logged_in:
            await self._run(line)
        elif not self._user:
            self._user = line.strip()
            self._prompt()
        else:
            user, self._user = self._user, ""
            if self._guest.login.lets_in(user, line, self.user):
                self._user, self._logged_in = user, True
                self._login.enter_context(self._guest.session(user, self._clock.now()))
                self._write(f"Last login: {self._clock.timestamp()} on ttyS0\n")
            else:
                self._write("\nLogin incorrect\n")
            self._prompt()

    async def _run(self, line: str) -> None:
        if line.strip() in ("exit", "logout"):
            self._log_out()
            return
        out, error, _ = await Shell(self._guest, self._clock).run(line) if line.strip() else ("", "", 0)
        self._write(out + error)
        self._prompt()

    def _prompt(self) -> None:
        if self._logged_in:
            self._write(f"[{self._user}@{self._guest.name} ~]{'#' if self._user == 'root' else '$'} ")
        else:
            self._write("Password: " if self._user else f"{self._guest.name} login: ")

    def _log_out(self) -> None:
        self._user, self._logged_in = "", False
        self._login.close()
        self._issue()


class Client:
    """One connection to a console."""

    def __init__(self, console: Console, write: Callable[[bytes], None], hang_up: Callable[[], None]) -> None:
        self._console, self.write, self.hang_up = console, write, hang_up

    async def type(self, data: bytes) -> None:
        await self._console.type(data)

    def disconnect(self) -> None:
        self._console.disconnect(self)
