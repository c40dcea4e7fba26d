"""The guests' shell. What it runs is in shell_commands.py.

A command takes no time unless it says so: what sleeps or waits moves the shell's own time, so that a script does each thing
at the moment it would have, however late this process is in doing it.
"""

from __future__ import annotations

import contextlib
import posixpath
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from . import shell_syntax as syntax
from .clock import SimClock
from .fio import NOT_FOUND
from .shell_commands import COMMANDS, Command, Exit, Streams

if TYPE_CHECKING:
    from .guests import Guest

MOST_TURNS = 100_000  # of a loop that never sleeps


class Shell:
    """One shell process: variables, a working directory, a time of its own."""

    def __init__(self, guest: Guest, clock: SimClock, user: str = "cloud-user", commands: Mapping[str, Command] = COMMANDS) -> None:
        """`guest` may also be what a container looks like from inside."""
        self.guest, self.machine, self.clock = guest, guest.machine, clock
        self.at = clock.now()  # cluster seconds
        self.user, self.commands = user, commands
        self.home = "/root" if user == "root" else f"/home/{user}"
        self.folder = self.home
        self.variables: dict[str, str] = {"HOME": self.home, "USER": user, "0": "sh"}
        self.status = 0
        self.pid = self.machine.next_pid()
        self.group = self.pid

    # Running.

    async def run(self, line: str, text: str = "") -> tuple[str, str, int]:
        """Standard output, standard error and exit code of a script, with `text` as its standard input."""
        self.at = max(self.at, self.clock.shown())
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
        child = Shell(self.guest, self.clock, self.user, self.commands)
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
        command = self.commands.get(posixpath.basename(name) if "/" in name else name)
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
