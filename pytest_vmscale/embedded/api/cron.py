"""Cron schedules, as CronJobs have them: five fields, or @hourly, @daily, ... or @every DURATION."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

MONTHS = {name: number for number, name in enumerate(["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"], 1)}
DAYS = {name: number for number, name in enumerate(["sun", "mon", "tue", "wed", "thu", "fri", "sat"])}
FIELDS: tuple[tuple[int, int, dict[str, int]], ...] = ((0, 59, {}), (0, 23, {}), (1, 31, {}), (1, 12, MONTHS), (0, 6, DAYS))
DESCRIPTORS = {"@yearly": "0 0 1 1 *", "@annually": "0 0 1 1 *", "@monthly": "0 0 1 * *", "@weekly": "0 0 * * 0", "@daily": "0 0 * * *",
               "@midnight": "0 0 * * *", "@hourly": "0 * * * *"}
UNITS_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
MOST_DAYS = 5 * 366  # a schedule that does not come in five years never comes


class Schedule:
    """When something is to happen. ValueError, in the real server's words, for what is no schedule."""

    def __init__(self, text: str) -> None:
        self._every: timedelta | None = None
        if text.startswith("@every "):
            self._every = _duration(text)
            return
        if text.startswith("@") and text not in DESCRIPTORS:
            raise ValueError(f"unrecognized descriptor: {text}")
        words = DESCRIPTORS.get(text, text).split()
        if len(words) != len(FIELDS):
            raise ValueError(f"expected exactly 5 fields, found {len(words)}: [{' '.join(words)}]")
        (self._minutes, _), (self._hours, _), (self._days, any_day), (self._months, _), (self._weekdays, any_weekday) = (
            _field(word, *field) for word, field in zip(words, FIELDS, strict=True))
        self._both = any_day or any_weekday  # otherwise a day that either field names will do

    def after(self, moment: datetime) -> datetime | None:
        """The first time after this one; None if there is none."""
        if self._every is not None:
            return moment.replace(microsecond=0) + self._every
        for days in range(MOST_DAYS):
            day = (moment + timedelta(days=days)).replace(hour=0, minute=0, second=0, microsecond=0)
            if not self._on(day):
                continue
            for hour in self._hours:
                for minute in self._minutes:
                    found = day.replace(hour=hour, minute=minute)
                    if found > moment:
                        return found
        return None

    def _on(self, day: datetime) -> bool:
        by_date, by_weekday = day.day in self._days, day.isoweekday() % 7 in self._weekdays
        return day.month in self._months and (by_date and by_weekday if self._both else by_date or by_weekday)


def _field(text: str, least: int, most: int, names: dict[str, int]) -> tuple[list[int], bool]:
    """The numbers that it names, and whether it is a star."""
    numbers: set[int] = set()
    star = False
    for part in filter(None, text.split(",")):
        found, is_star = _range(part, least, most, names)
        numbers.update(found)
        star = star or is_star
    return sorted(numbers), star


def _range(text: str, least: int, most: int, names: dict[str, int]) -> tuple[range, bool]:
    bounds, *steps = text.split("/")
    low, *highs = bounds.split("-")
    star = low in ("*", "?")
    if len(highs) > 1:
        raise ValueError(f"too many hyphens: {text}")
    start = least if star else _number(low, names)
    end = most if star else _number(highs[0], names) if highs else start
    if len(steps) > 1:
        raise ValueError(f"too many slashes: {text}")
    step = _number(steps[0], {}) if steps else 1
    if steps and not highs:
        end = most
    if start < least:
        raise ValueError(f"beginning of range ({start}) below minimum ({least}): {text}")
    if end > most:
        raise ValueError(f"end of range ({end}) above maximum ({most}): {text}")
    if start > end:
        raise ValueError(f"beginning of range ({start}) beyond end of range ({end}): {text}")
    if step == 0:
        raise ValueError(f"step of range should be a positive number: {text}")
    return range(start, end + 1, step), star and step == 1


def _number(text: str, names: dict[str, int]) -> int:
    if text.lower() in names:
        return names[text.lower()]
    if not re.fullmatch(r"[+-]?[0-9]{1,18}", text):
        raise ValueError(f'failed to parse int from {text}: strconv.Atoi: parsing "{text}": invalid syntax')
    if int(text) < 0:
        raise ValueError(f"negative number ({int(text)}) not allowed: {text}")
    return int(text)


def _duration(text: str) -> timedelta:
    """Of an @every: at least a second, whole seconds."""
    words = text.removeprefix("@every ")
    parts = re.findall(r"([0-9]+(?:\.[0-9]+)?)(ms|h|m|s)", words)
    if not parts or "".join(map("".join, parts)) != words:
        raise ValueError(f'failed to parse duration {text}: time: invalid duration "{words}"')
    return timedelta(seconds=max(1, int(sum(float(number) * UNITS_SECONDS[unit] for number, unit in parts))))
