"""The guests' shell, and the commands that tests run in it.

A command takes no time unless it says so: what sleeps or waits moves the shell's own time, so that a script does each thing
at the moment it would have, however late this process is in doing it.
"""

from __future__ import annotations

import contextlib
import math
import posixpath
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from . import shell_syntax as syntax
from .clock import SimClock
from .fio import NOT_FOUND, fio

if TYPE_CHECKING:
    from .guests import Guest

MOST_TURNS = 100_000  # of a loop that never sleeps


class Exit(Exception):
    """`exit N`: of the script, not of a program."""

    def __init__(self, code: int) -> None:
        self.code = code


@dataclass
class Streams:
    """A command's standard input and what it wrote. Two descriptors may be one list."""

    text: str = ""
    out: list[str] = field(default_factory=list)
    error: list[str] = field(default_factory=list)

    def read_line(self) -> tuple[str, bool]:
        """The next line of the input, and whether it was ended as a line is."""
        line, ended, self.text = self.text.partition("\n")
        return line, bool(ended)


class Shell:
    """One shell process: variables, a working directory, a time of its own."""

    def __init__(self, guest: Guest, clock: SimClock, user: str = "cloud-user") -> None:
        self.guest, self.machine, self.clock = guest, guest.machine, clock
        self.at = clock.now()  # cluster seconds
        self.user = user
        self.home = "/root" if user == "root" else f"/home/{user}"
        self.folder = self.home
        self.variables: dict[str, str] = {"HOME": self.home, "USER": user, "0": "sh"}
        self.status = 0
        self.pid = self.machine.next_pid()
        self.group = self.pid

    # Running.

    async def run(self, line: str, text: str = "") -> tuple[str, str, int]:
        """Standard output, standard error and exit code of a script, with `text` as its standard input."""
        self.at = max(self.at, self.clock.now())
        streams = Streams(text)
        code = await self._script_text(line, streams)
        return "".join(streams.out), "".join(streams.error), code

    async def _script_text(self, line: str, streams: Streams) -> int:
        try:
            script = syntax.parse(line)
        except syntax.ShellSyntaxError as problem:
            streams.error.append(f"sh: {problem}\n")
            self.status = 2
            return 2
        try:
            await self._script(script, streams)
        except Exit as end:
            self.status = end.code
        return self.status

    def child(self, group: bool = False) -> Shell:
        """A process of this shell, in a process group of its own if asked."""
        child = Shell(self.guest, self.clock, self.user)
        child.at, child.folder, child.variables = self.at, self.folder, dict(self.variables)
        child.group = child.pid if group else self.group
        child.status = self.status
        return child

    async def _script(self, script: syntax.Script, streams: Streams) -> None:
        for items, background in script.lists:
            if background:
                self._spawn(items)
                self.status = 0
                continue
            for item in items:
                if item.after == "" or (item.after == "&&") == (self.status == 0):
                    await self._pipeline(item.pipeline, streams)

    def _spawn(self, items: tuple[syntax.Item, ...]) -> None:
        """In the background: its output is lost unless it goes to a file, and it outlives the connection."""
        script = syntax.Script(((items, False),))
        child = self.child()
        self.variables["!"] = str(child.pid)

        async def work() -> None:
            with contextlib.suppress(Exit):
                await child._script(script, Streams())

        self.machine.spawn(child.pid, lambda: child.group, work())

    async def _pipeline(self, pipeline: syntax.Pipeline, streams: Streams) -> None:
        if len(pipeline.commands) == 1:
            await self._command(pipeline.commands[0], streams)
        else:
            text = streams.text
            for number, command in enumerate(pipeline.commands):
                last = number == len(pipeline.commands) - 1
                step = Streams(text, streams.out if last else [], streams.error)
                child = self.child()
                with contextlib.suppress(Exit):
                    await child._command(command, step)
                self.status, self.at, text = child.status, child.at, "".join(step.out)
        if pipeline.negated:
            self.status = 0 if self.status else 1

    async def _command(self, command: syntax.Command, streams: Streams) -> None:
        try:
            inner, finish = await self._redirected(command.redirects, streams)
        except OSError as error:
            streams.error.append(f"sh: {error.filename}: {error.strerror}\n")
            self.status = 1
            return
        try:
            match command:
                case syntax.Simple():
                    await self._simple(command, inner)
                case syntax.If():
                    await self._if(command, inner)
                case syntax.While():
                    await self._while(command, inner)
                case syntax.Group():
                    runner = self.child() if command.subshell else self
                    try:
                        await runner._script(command.body, inner)
                    except Exit as end:
                        if runner is self:
                            raise
                        runner.status = end.code
                    self.status, self.at = runner.status, runner.at
        finally:
            finish()

    async def _redirected(self, redirects: tuple[syntax.Redirect, ...], streams: Streams) -> tuple[Streams, Callable[[], None]]:
        """The streams inside, and what writes the files at the end. OSError for a file that cannot be opened."""
        if not redirects:
            return streams, lambda: None
        inner = Streams(streams.text, streams.out, streams.error)
        files: list[tuple[str, list[str]]] = []
        for redirect in redirects:
            if isinstance(redirect.target, int):
                joined = inner.out if redirect.target == 1 else inner.error
                inner.out, inner.error = (joined, inner.error) if redirect.descriptor == 1 else (inner.out, joined)
                continue
            path = self.path(" ".join(await self._expand(redirect.target, streams)))
            if redirect.operator == "<":
                inner.text = "" if path == "/dev/null" else self.machine.disk.read(path).decode(errors="replace")
                continue
            sink: list[str] = []
            if path != "/dev/null":
                self.machine.disk.write(path, b"", append=redirect.operator == ">>")
                files.append((path, sink))
            if redirect.descriptor == 2:
                inner.error = sink
            else:
                inner.out = sink

        def finish() -> None:
            for path, sink in files:
                if sink and self.machine.disk.is_folder(posixpath.dirname(path)):  # it may be gone by now
                    with contextlib.suppress(OSError):  # a full disk: what is written is lost
                        self.machine.disk.write(path, "".join(sink).encode(), append=True)

        return inner, finish

    async def _if(self, command: syntax.If, streams: Streams) -> None:
        for condition, body in command.branches:
            await self._script(condition, streams)
            if self.status == 0:
                await self._script(body, streams)
                return
        self.status = 0
        if command.otherwise:
            await self._script(command.otherwise, streams)

    async def _while(self, command: syntax.While, streams: Streams) -> None:
        code = 0
        for _ in range(MOST_TURNS):
            await self._script(command.condition, streams)
            if (self.status == 0) == command.until:
                break
            await self._script(command.body, streams)
            code = self.status
        self.status = code

    async def _simple(self, command: syntax.Simple, streams: Streams) -> None:
        words: list[str] = []
        for word in command.words:
            words.extend(await self._expand(word, streams))
        for name, value in command.assignments:
            self.variables[name] = " ".join(await self._expand(value, streams, split=False))
        if not command.words and not any(piece.kind == "command" for _, value in command.assignments for piece in value):
            self.status = 0
        if words:
            self.status = await self.execute(words, streams)

    async def execute(self, words: list[str], streams: Streams) -> int:
        """Run one command of these words; returns its exit code."""
        name, args = words[0], words[1:]
        command = _COMMANDS.get(posixpath.basename(name) if "/" in name else name)
        if command is None or (name == "fio" and not self.machine.has_fio):
            streams.error.append(f"sh: {name}: command not found\n")
            return NOT_FOUND
        try:
            return await command(self, args, streams)
        except OSError as error:
            streams.error.append(f"{name}: {error.filename}: {error.strerror}\n")
            return 1

    # Expansion.

    async def _expand(self, word: syntax.Word, streams: Streams, split: bool = True) -> list[str]:
        """The words that a word becomes: what is not quoted is split at white space, and may be none."""
        done: list[str] = []
        current: str | None = None
        for piece in word:
            text = await self._piece(piece, streams)
            if piece.kind == "text" or piece.quoted or not split:
                current = (current or "") + text
                continue
            parts = text.split()
            if text[:1].isspace() and current is not None:
                done.append(current)
                current = None
            for number, part in enumerate(parts):
                if number and current is not None:
                    done.append(current)
                    current = None
                current = (current or "") + part
            if parts and text[-1].isspace() and current is not None:
                done.append(current)
                current = None
        if current is not None:
            done.append(current)
        if word and word[0].kind == "text" and not word[0].quoted and done and (done[0] == "~" or done[0].startswith("~/")):
            done[0] = self.home + done[0][1:]
        return done

    async def _piece(self, piece: syntax.Piece, streams: Streams) -> str:
        match piece.kind:
            case "variable":
                return self._variable(piece.text)
            case "arithmetic":
                return str(await self._arithmetic(piece.text, streams))
            case "command":
                child, inner = self.child(), Streams("", [], streams.error)
                assert piece.script is not None
                with contextlib.suppress(Exit):
                    await child._script(piece.script, inner)
                self.status, self.at = child.status, child.at
                return "".join(inner.out).rstrip("\n")
        return piece.text

    def _variable(self, name: str) -> str:
        special = {"?": self.status, "$": self.pid, "#": sum(each.isdigit() and each != "0" for each in self.variables)}
        return str(special[name]) if name in special else self.variables.get(name, "")

    async def _arithmetic(self, text: str, streams: Streams) -> int:
        command = syntax.parse(f'"{text}"').lists[0][0][0].pipeline.commands[0]
        assert isinstance(command, syntax.Simple)
        plain = " ".join(await self._expand(command.words[0], streams))
        plain = syntax.NAME.sub(lambda found: self.variables.get(found[0]) or "0", plain)
        try:
            return syntax.evaluate(plain)
        except (syntax.ShellSyntaxError, ZeroDivisionError) as error:
            streams.error.append(f"sh: {plain}: {error}\n")
            raise Exit(2) from None

    def path(self, text: str) -> str:
        """Absolute and without dots."""
        return posixpath.normpath(posixpath.join(self.folder, text))

    async def sleep(self, seconds: float) -> None:
        self.at += max(0.0, seconds)
        await self.clock.sleep_until(self.at)


Command = Callable[[Shell, list[str], Streams], Awaitable[int]]
_COMMANDS: dict[str, Command] = {}


def _command(*names: str) -> Callable[[Command], Command]:
    def add(function: Command) -> Command:
        for name in names:
            _COMMANDS[name] = function
        return function

    return add


_COMMANDS["fio"] = fio


# What a shell does itself.

@_command("true", ":", "sync", "export", "set", "ulimit", "chmod", "umask", "wait")
async def _true(shell: Shell, args: list[str], streams: Streams) -> int:
    if args[:1] == ["-Hn"] or args == ["-H", "-n"]:
        streams.out.append("262144\n")
    return 0


@_command("false")
async def _false(shell: Shell, args: list[str], streams: Streams) -> int:
    return 1


@_command("exit")
async def _exit(shell: Shell, args: list[str], streams: Streams) -> int:
    raise Exit(int(args[0]) if args and args[0].isdigit() else shell.status)


@_command("cd")
async def _cd(shell: Shell, args: list[str], streams: Streams) -> int:
    path = shell.path(next((each for each in args if each != "--"), shell.home))
    if not shell.machine.disk.is_folder(path):
        streams.error.append(f"sh: cd: {path}: No such file or directory\n")
        return 1
    shell.folder = path
    return 0


@_command("pwd")
async def _pwd(shell: Shell, args: list[str], streams: Streams) -> int:
    streams.out.append(f"{shell.folder}\n")
    return 0


@_command("read")
async def _read(shell: Shell, args: list[str], streams: Streams) -> int:
    line, ended = streams.read_line()
    names = [each for each in args if each != "-r"] or ["REPLY"]
    parts = line.split(maxsplit=len(names) - 1)
    for number, name in enumerate(names):
        shell.variables[name] = parts[number] if number < len(parts) else ""
    return 0 if ended else 1


@_command("test", "[")
async def _test(shell: Shell, args: list[str], streams: Streams) -> int:
    words = args[:-1] if args and args[-1] == "]" else list(args)
    negated = words[:1] == ["!"]
    words = words[1:] if negated else words
    try:
        return int(_holds(shell, words) == negated)
    except (ValueError, KeyError):
        streams.error.append(f"sh: test: {' '.join(words)}: unknown operand\n")
        return 2


def _holds(shell: Shell, words: list[str]) -> bool:
    disk = shell.machine.disk
    match words:
        case []:
            return False
        case [text]:
            return bool(text)
        case ["-n" | "-z" as operator, text]:
            return bool(text) == (operator == "-n")
        case ["-e" | "-f" | "-d" | "-s" | "-r" | "-w" | "-x" as operator, name]:
            path = shell.path(name)
            known = path in _system_files(shell)
            return {"-f": disk.is_file(path) or known, "-d": disk.is_folder(path), "-s": disk.is_file(path) and disk.size(path) > 0}.get(
                operator, disk.exists(path) or known)
        case [left, "=" | "==", right]:
            return left == right
        case [left, "!=", right]:
            return left != right
        case [left, operator, right]:
            one, two = int(left), int(right)
            return {"-eq": one == two, "-ne": one != two, "-lt": one < two, "-le": one <= two, "-gt": one > two, "-ge": one >= two}[operator]
    raise ValueError(words)


@_command("command", "type", "which")
async def _which(shell: Shell, args: list[str], streams: Streams) -> int:
    names = [each for each in args if not each.startswith("-")]
    if args and not args[0].startswith("-") and "-v" not in args and names and names[0] in _COMMANDS and len(names) > 1:
        return await shell.execute(names, streams)
    missing = [each for each in names if each not in _COMMANDS or (each == "fio" and not shell.machine.has_fio)]
    streams.out.extend(f"/usr/bin/{each}\n" for each in names if each not in missing)
    return 1 if missing or not names else 0


@_command("sh", "bash")
async def _sh(shell: Shell, args: list[str], streams: Streams) -> int:
    child = shell.child()
    if args[:1] == ["-c"] and len(args) > 1:
        script, rest = args[1], args[2:]
    else:
        files = [each for each in args if not each.startswith("-")]
        if files:
            path = shell.path(files[0])
            if not shell.machine.disk.is_file(path):
                streams.error.append(f"sh: {files[0]}: No such file or directory\n")
                return NOT_FOUND
            script, rest = shell.machine.disk.read(path).decode(errors="replace"), files
        else:
            script, rest, streams.text = streams.text, [], ""
    child.variables.update({str(number): each for number, each in enumerate(rest)})
    child.group = shell.group
    code = await child._script_text(script, streams)
    shell.at = child.at
    return code


@_command("exec", "nohup", "env", "nice", "timeout")
async def _exec(shell: Shell, args: list[str], streams: Streams) -> int:
    words = list(args)
    while words and (words[0].startswith("-") or "=" in words[0] or words[0].isdigit()):
        words.pop(0)
    return await shell.execute(words, streams) if words else 0


@_command("setsid")
async def _setsid(shell: Shell, args: list[str], streams: Streams) -> int:
    """In a session, and so a process group, of its own."""
    shell.group = shell.pid
    return await _exec(shell, args, streams)


@_command("sudo")
async def _sudo(shell: Shell, args: list[str], streams: Streams) -> int:
    words = [each for each in args if each != "-n"]
    return await shell.execute(words, streams) if words else 0


@_command("kill")
async def _kill(shell: Shell, args: list[str], streams: Streams) -> int:
    probing = args[:1] == ["-0"]
    targets = [each for each in args if each.lstrip("-").isdigit()]
    if args[:1] and args[0].startswith("-") and targets[:1] == args[:1] and len(targets) > 1:
        targets = targets[1:]  # the first is the signal
    if probing:
        targets = [each for each in targets if each != "-0"]
    missing = 0
    for each in targets:
        number = int(each)
        pids = shell.machine.processes_of(group=-number) if number < 0 else [pid for pid in [number] if pid in shell.machine.processes]
        if not pids:
            streams.error.append(f"sh: kill: ({each}) - No such process\n")
            missing = 1
        for pid in pids if not probing else ():
            shell.machine.kill(pid)
    return missing


# Text and time.

@_command("echo")
async def _echo(shell: Shell, args: list[str], streams: Streams) -> int:
    bare = args[:1] == ["-n"]
    streams.out.append(" ".join(args[1:] if bare else args) + ("" if bare else "\n"))
    return 0


@_command("printf")
async def _printf(shell: Shell, args: list[str], streams: Streams) -> int:
    text = (args[0] if args else "").replace("\\n", "\n").replace("\\t", "\t")
    values = list(args[1:])

    def fill(found: re.Match[str]) -> str:
        value = values.pop(0) if values else ""
        return found[0] % (int(value or 0) if found[0][-1] == "d" else value)

    try:
        streams.out.append(re.sub(r"%[-0-9]*[ds]", fill, text).replace("%%", "%"))
    except ValueError as error:
        streams.error.append(f"sh: printf: {error}\n")
        return 1
    return 0


@_command("sleep")
async def _sleep(shell: Shell, args: list[str], streams: Streams) -> int:
    try:
        seconds = sum(float(each) for each in args)
        if not args or not math.isfinite(seconds):
            raise ValueError
    except ValueError:
        streams.error.append(f"sleep: invalid time interval '{' '.join(args)}'\n")
        return 1
    await shell.sleep(seconds)
    return 0


@_command("date")
async def _date(shell: Shell, args: list[str], streams: Streams) -> int:
    seconds = shell.clock.epoch + shell.at + shell.machine.clock_offset_seconds
    form = next((each[1:] for each in args if each.startswith("+")), None)
    if form is None:
        streams.out.append(f"{shell.clock.timestamp(shell.at)}\n")
        return 0
    whole = math.floor(seconds)
    parts = {"%s": str(whole), "%N": f"{int((seconds - whole) * 1e9):09d}"}
    streams.out.append(re.sub("%[sN]", lambda found: parts[found[0]], form) + "\n")
    return 0


@_command("uptime")
async def _uptime(shell: Shell, args: list[str], streams: Streams) -> int:
    up = shell.at - shell.guest.started_at
    streams.out.append(f" up {int(up // 60)} min,  1 user,  load average: 0.00, 0.00, 0.00\n")
    return 0


# What the machine is.

@_command("hostname")
async def _hostname(shell: Shell, args: list[str], streams: Streams) -> int:
    streams.out.append(f"{shell.guest.name}\n")
    return 0


@_command("whoami")
async def _whoami(shell: Shell, args: list[str], streams: Streams) -> int:
    streams.out.append(f"{shell.user}\n")
    return 0


@_command("nproc")
async def _nproc(shell: Shell, args: list[str], streams: Streams) -> int:
    streams.out.append("1\n")
    return 0


@_command("uname")
async def _uname(shell: Shell, args: list[str], streams: Streams) -> int:
    info = shell.guest.os_info
    fields = {"s": "Linux", "n": shell.guest.name, "r": info["kernelRelease"], "v": info["kernelVersion"], "m": info["machine"], "o": "GNU/Linux"}
    flags = "".join(each.lstrip("-") for each in args) or "s"
    streams.out.append(" ".join(fields[each] for each in fields if each in flags or "a" in flags) + "\n")
    return 0


# Files.

def _system_files(shell: Shell) -> dict[str, str]:
    info, guest = shell.guest.os_info, shell.guest
    return {
        "/etc/os-release": "".join(f'{key}="{info[name]}"\n' for key, name in (
            ("NAME", "name"), ("VERSION", "version"), ("ID", "id"), ("VERSION_ID", "versionId"), ("PRETTY_NAME", "prettyName"))),
        "/etc/hostname": f"{guest.name}\n",
        "/proc/uptime": f"{shell.at - guest.started_at:.2f} 0.00\n",
        "/proc/sys/kernel/random/boot_id": f"{guest.uid}\n",
    }


@_command("cat")
async def _cat(shell: Shell, args: list[str], streams: Streams) -> int:
    if not args:
        streams.out.append(streams.text)
        streams.text = ""
        return 0
    known, code = _system_files(shell), 0
    for name in args:
        path = shell.path(name)
        if path in known:
            streams.out.append(known[path])
        elif shell.machine.disk.is_file(path):
            streams.out.append(shell.machine.disk.read(path).decode(errors="replace"))
        else:
            streams.error.append(f"cat: {name}: No such file or directory\n")
            code = 1
    return code


@_command("mkdir")
async def _mkdir(shell: Shell, args: list[str], streams: Streams) -> int:
    parents = any(each.startswith("-") and "p" in each for each in args)
    for name in args:
        if not name.startswith("-"):
            shell.machine.disk.make_folder(shell.path(name), parents)
    return 0


@_command("rm")
async def _rm(shell: Shell, args: list[str], streams: Streams) -> int:
    flags = "".join(each[1:] for each in args if each.startswith("-"))
    disk, code = shell.machine.disk, 0
    for name in (each for each in args if not each.startswith("-")):
        path = shell.path(name)
        if "r" in flags:
            disk.remove_tree(path)
        elif disk.is_file(path):
            disk.remove(path)
        elif "f" not in flags or disk.is_folder(path):
            streams.error.append(f"rm: cannot remove '{name}': {'Is a directory' if disk.is_folder(path) else 'No such file or directory'}\n")
            code = 1
    return code


@_command("mv")
async def _mv(shell: Shell, args: list[str], streams: Streams) -> int:
    names = [each for each in args if not each.startswith("-")]
    shell.machine.disk.rename(shell.path(names[0]), shell.path(names[1]))
    return 0


@_command("cp")
async def _cp(shell: Shell, args: list[str], streams: Streams) -> int:
    names = [each for each in args if not each.startswith("-")]
    shell.machine.disk.write(shell.path(names[1]), shell.machine.disk.read(shell.path(names[0])))
    return 0


@_command("wc")
async def _wc(shell: Shell, args: list[str], streams: Streams) -> int:
    """Of bytes (-c) or lines (-l) alone, of files or of the input."""
    names = [each for each in args if not each.startswith("-")]
    for name, content in [(f" {name}", shell.machine.disk.read(shell.path(name))) for name in names] or [("", streams.text.encode())]:
        streams.out.append(f"{content.count(10) if '-l' in args else len(content)}{name}\n")
    return 0


@_command("touch")
async def _touch(shell: Shell, args: list[str], streams: Streams) -> int:
    for name in args:
        shell.machine.disk.write(shell.path(name), b"", append=True)
    return 0


@_command("ls")
async def _ls(shell: Shell, args: list[str], streams: Streams) -> int:
    for name in [each for each in args if not each.startswith("-")] or ["."]:
        path = shell.path(name)
        names = [name] if shell.machine.disk.is_file(path) else shell.machine.disk.names(path)
        streams.out.extend(f"{each}\n" for each in names)
    return 0


@_command("df")
async def _df(shell: Shell, args: list[str], streams: Streams) -> int:
    """As `df -Pk` prints it; other flags are taken and make no difference."""
    disk = shell.machine.disk
    total, free = disk.size_bytes // 1024, shell.machine.free_bytes // 1024
    share = math.ceil(100 * (total - free) / total) if total else 100
    streams.out.append("Filesystem     1024-blocks     Used Available Capacity Mounted on\n"
                       f"/dev/vda1      {total:11d} {total - free:8d} {free:9d}     {share:3d}% /\n")
    return 0


@_command("dnf", "yum", "apt-get")
async def _install(shell: Shell, args: list[str], streams: Streams) -> int:
    words = [each for each in args if not each.startswith("-")]
    if words[:1] in (["update"], ["makecache"]):
        return 0
    if words[:1] != ["install"]:
        streams.error.append(f"No such command: {' '.join(words[:1])}\n")
        return 1
    unknown = [each for each in words[1:] if each != "fio" and each not in _COMMANDS]
    if unknown:
        streams.error.append(f"No match for argument: {unknown[0]}\nError: Unable to find a match: {unknown[0]}\n")
        return 1
    if "fio" in words and not shell.machine.has_fio and not shell.machine.can_install:
        streams.error.append("Error: Unable to find a match: fio\n")
        return 1
    if "fio" in words and not shell.machine.has_fio:
        await shell.sleep(shell.machine.install_seconds)
        shell.machine.has_fio = True
    streams.out.append("Complete!\n")
    return 0
