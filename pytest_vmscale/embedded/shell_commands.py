"""The commands that the guests' shell knows: of a shell itself, and of a small machine."""

from __future__ import annotations

import math
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .fio import NOT_FOUND, fio

if TYPE_CHECKING:
    from .shell import Shell


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


Command = Callable[["Shell", list[str], "Streams"], Awaitable[int]]
COMMANDS: dict[str, Command] = {}


def _command(*names: str) -> Callable[[Command], Command]:
    def add(function: Command) -> Command:
        for name in names:
            COMMANDS[name] = function
        return function

    return add


COMMANDS["fio"] = fio


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
    if args and not args[0].startswith("-") and "-v" not in args and names and names[0] in COMMANDS and len(names) > 1:
        return await shell.execute(names, streams)
    missing = [each for each in names if each not in COMMANDS or (each == "fio" and not shell.machine.has_fio)]
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


@_command("env", "printenv")
async def _env(shell: Shell, args: list[str], streams: Streams) -> int:
    if args:
        return await _exec(shell, args, streams)
    streams.out.extend(f"{name}={value}\n" for name, value in shell.variables.items() if not name.isdigit() and name != "!")
    return 0


@_command("exec", "nohup", "nice", "timeout")
async def _exec(shell: Shell, args: list[str], streams: Streams) -> int:
    words = list(args)
    while words and (words[0].startswith("-") or "=" in words[0] or words[0].isdigit()):
        words.pop(0)
    return await shell.execute(words, streams) if words else 0


@_command("chroot")
async def _chroot(shell: Shell, args: list[str], streams: Streams) -> int:
    """Into the node's own file system, from a container on it: there are the same programs."""
    return await shell.execute(args[1:] or ["sh"], streams) if args else 1


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
    unknown = [each for each in words[1:] if each != "fio" and each not in COMMANDS]
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
