"""Which guests a fleet has, and in which namespaces: pure arithmetic on the settings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .model import Fleet, Guest

if TYPE_CHECKING:
    from .settings import Settings

MAIN = "main"


def plan_fleet(settings: Settings, name: str, count: int, default_mix: str = "rhel=100") -> Fleet:
    """A fleet's guests in order. The OSs (--vm-mix, or the scenario's default) are dealt evenly over the whole of it, so that
    the first n VMs of a sweep have (as nearly as whole numbers allow) the same mix as all of them. Names of fleets beside the main
    one are in the names of their namespaces: two fleets may be there at once."""
    mix = settings.mix(count, default_mix)
    dealt = dict.fromkeys(mix, 0)
    guests = []
    for index in range(count):
        # The OS that lags furthest behind its share comes next.
        os = max(dealt, key=lambda each: mix[each] * (index + 1) / count - dealt[each])
        dealt[os] += 1
        space = f"{namespace_prefix(settings.run_id, name)}-{index // settings.vms_per_namespace}"
        guests.append(Guest(space, f"{os}-{index:05d}", os, index))
    return Fleet(settings.run_id, name, tuple(guests))


def namespace_prefix(run_id: str, fleet: str) -> str:
    return f"vmscale-{run_id}" if fleet == MAIN else f"vmscale-{run_id}-{fleet}"
