"""Which guests a fleet has, and in which namespaces: pure arithmetic on the settings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .model import Fleet, Guest

if TYPE_CHECKING:
    from .settings import Settings


def namespaces(settings: Settings) -> list[str]:
    count = -(-settings.largest // settings.vms_per_namespace)
    return [f"vmscale-{settings.run_id}-{number}" for number in range(count)]


def plan_guests(settings: Settings) -> tuple[Guest, ...]:
    """The fleet's guests in order. The OSs are dealt evenly over the whole of it, so that the first n VMs of a
    sweep have (as nearly as whole numbers allow) the same mix as all of them."""
    spaces = namespaces(settings)
    dealt = dict.fromkeys(settings.vm_mix, 0)
    guests = []
    for index in range(settings.largest):
        # The OS that lags furthest behind its share comes next.
        name = max(dealt, key=lambda each: settings.vm_mix[each] * (index + 1) / settings.largest - dealt[each])
        dealt[name] += 1
        guests.append(Guest(spaces[index // settings.vms_per_namespace], f"{name}-{index:05d}", name, index))
    return tuple(guests)


def plan_fleet(settings: Settings, name: str = "main") -> Fleet:
    return Fleet(settings.run_id, name, plan_guests(settings))
