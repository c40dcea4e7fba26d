"""What the containers of this cluster run: nothing, but their processes end when those of a real one would."""

from __future__ import annotations

import re
import shlex

from ..api.store import Object

GATHER = "/usr/bin/gather"  # of oc adm must-gather's container, in the middle of a script that is more of a shell than is known here


def ending(container: Object, of_job: bool, job_seconds: float) -> tuple[float, int] | None:
    """After how many seconds the container's process ends and with which exit code; None if it runs until it is stopped.

    Known are sleep, true, false, echo and exit, and shell lines of these. Anything else runs for ever, but in the pod of a
    Job, where it ends well after `job_seconds`, as must-gather's program does.
    """
    if any(GATHER in word for word in container.get("command") or ()):
        return job_seconds, 0
    commands = _commands(container)
    seconds, code = 0.0, 0
    for command in commands:
        name, arguments = command[0].rpartition("/")[2], command[1:]
        if name == "sleep" and arguments:
            slept = _sleep_seconds(arguments[0])
            if slept is None:
                return None  # infinity
            seconds += slept
        elif name == "exit":
            return seconds, int(arguments[0]) if arguments and arguments[0].isdigit() else code
        elif name in ("true", "false", "echo"):
            code = 1 if name == "false" else 0
        else:
            return (seconds + job_seconds, 0) if of_job else None
    if commands:
        return seconds, code
    return (job_seconds, 0) if of_job else None


def printed(container: Object) -> list[tuple[float, str]]:
    """What its echoes print, and after how many seconds."""
    found, seconds = [], 0.0
    for command in _commands(container):
        name, arguments = command[0].rpartition("/")[2], command[1:]
        slept = _sleep_seconds(arguments[0]) if name == "sleep" and arguments else 0.0
        if slept is None or name not in ("sleep", "true", "false", "echo"):
            break
        seconds += slept
        if name == "echo":
            found.append((seconds, " ".join(arguments)))
    return found


def _commands(container: Object) -> list[list[str]]:
    words = [*(container.get("command") or ()), *(container.get("args") or ())]
    if len(words) >= 3 and words[0].rpartition("/")[2] in ("sh", "bash") and words[1] == "-c":
        try:
            return [shlex.split(each) for each in re.split(r"&&|;|\n", words[2]) if each.strip()]
        except ValueError:  # a quote that spans commands: more of a shell than is known here
            return [["sh"]]
    return [words] if words else []


def _sleep_seconds(text: str) -> float | None:
    """None is for ever."""
    number = re.fullmatch(r"([0-9.]+)([smhd]?)", text)
    return float(number[1]) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}[number[2]] if number else None
