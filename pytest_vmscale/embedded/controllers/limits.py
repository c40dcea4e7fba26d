"""LimitRanges: what the containers, pods and claims of a namespace ask for where they do not say, and between what bounds."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import TYPE_CHECKING

from ..api.errors import ApiError, details, qualified
from ..api.kinds import Kind
from ..api.store import Object
from .common import Cluster, milli
from .quota import pod_resources, quantity

if TYPE_CHECKING:
    from ..api.server import ApiServer

ANNOTATION = "kubernetes.io/limit-ranger"
Amounts = dict[str, int]  # thousandths


class LimitRanges:
    """The admission plugin LimitRanger. It has nothing to run."""

    def __init__(self, cluster: Cluster) -> None:
        self._resources = cluster.resources
        kind = cluster.resources.kind
        self._limits, self._pods, self._claims = kind("limitranges"), kind("pods"), kind("persistentvolumeclaims")

    def start(self) -> None:
        self._resources.add_check(self._pods, self._check_pod)

    async def stop(self) -> None:
        """Nothing runs."""

    def serve(self, server: ApiServer) -> None:
        server.add_admission(self._pods, lambda obj, old: self._default(obj) if old is None else None)
        server.add_admission(self._claims, self._admit_claim)

    def _items(self, obj: Object, *types: str) -> Iterator[Object]:
        for limits in self._resources.list(self._limits, obj["metadata"].get("namespace", "")):
            yield from (each for each in limits["spec"]["limits"] if each["type"] in types)

    def _check_pod(self, pod: Object) -> None:
        """Whoever creates it. 403 if it asks for less or more than it may."""
        self._default(pod)
        self._refuse(self._pods, pod, [why for item in self._items(pod, "Container", "Pod") for why in _pod_problems(item, pod["spec"])])

    def _default(self, pod: Object) -> None:
        """Fill in what its containers do not say, and note that on it."""
        done: list[str] = []
        for item in self._items(pod, "Container"):
            for what, containers in (("container", pod["spec"].get("containers")), ("init container", pod["spec"].get("initContainers"))):
                for container in containers or ():
                    done += _fill(item, container, what)
        if done:
            pod["metadata"].setdefault("annotations", {})[ANNOTATION] = f"LimitRanger plugin set: {'; '.join(done)}"

    def _admit_claim(self, obj: Object, old: Object | None) -> None:
        asked = {name: milli(amount) for name, amount in ((obj["spec"].get("resources") or {}).get("requests") or {}).items()}
        self._refuse(self._claims, obj, [why for item in self._items(obj, "PersistentVolumeClaim") for why in (
            *_too_little(item, asked, {}), *_too_much(item, asked, asked, "request"))])

    @staticmethod
    def _refuse(kind: Kind, obj: Object, problems: list[str]) -> None:
        if problems:
            name = obj["metadata"].get("name") or obj["metadata"].get("generateName", "")
            why = problems[0] if len(problems) == 1 else f"[{', '.join(problems)}]"
            raise ApiError(403, f'{qualified(kind.plural, kind.group)} "{name}" is forbidden: {why}', details=details(kind.group, kind.plural, name))


def _fill(item: Object, container: Object, what: str) -> list[str]:
    """Returns what was filled in, in words."""
    done = []
    for word, side, values in (("request", "requests", item.get("defaultRequest")), ("limit", "limits", item.get("default"))):
        given = (container.get("resources") or {}).get(side) or {}
        missing = {name: amount for name, amount in (values or {}).items() if name not in given}
        if missing:
            container.setdefault("resources", {})[side] = {**given, **missing}
            done.append(f"{', '.join(sorted(missing))} {word} for {what} {container['name']}")
    return done


def _pod_problems(item: Object, spec: Object) -> Iterator[str]:
    if item["type"] == "Pod":
        parts = [(pod_resources(spec, "requests"), pod_resources(spec, "limits"))]
    else:
        containers = [each.get("resources") or {} for each in (*(spec.get("containers") or ()), *(spec.get("initContainers") or ()))]
        parts = [tuple({name: milli(amount) for name, amount in (each.get(side) or {}).items()} for side in ("requests", "limits")) for each in containers]  # type: ignore[misc]
    for requests, limits in parts:
        yield from _too_little(item, requests, limits)
        yield from _too_much(item, limits, requests, "limit")
        yield from _too_far_apart(item, requests, limits)


def _too_little(item: Object, requests: Amounts, limits: Amounts) -> Iterator[str]:
    for name, least in (item.get("min") or {}).items():
        bound = f"minimum {name} usage per {item['type']} is {least}"
        if name not in requests:
            yield f"{bound}.  No request is specified"
        elif requests[name] < milli(least):
            yield f"{bound}, but request is {_words(requests[name], least)}"
        elif limits.get(name, milli(least)) < milli(least):
            yield f"{bound}, but limit is {_words(limits[name], least)}"


def _too_much(item: Object, amounts: Amounts, requests: Amounts, word: str) -> Iterator[str]:
    """`word`: what `amounts` are, limits or (of claims, which have no limits) requests."""
    for name, most in (item.get("max") or {}).items():
        bound = f"maximum {name} usage per {item['type']} is {most}"
        if name not in amounts:
            yield f"{bound}.  No {word} is specified"
        elif amounts[name] > milli(most):
            yield f"{bound}, but {word} is {_words(amounts[name], most)}"
        elif requests.get(name, 0) > milli(most):
            yield f"{bound}, but request is {_words(requests[name], most)}"


def _too_far_apart(item: Object, requests: Amounts, limits: Amounts) -> Iterator[str]:
    for name, ratio in (item.get("maxLimitRequestRatio") or {}).items():
        bound = f"{name} max limit to request ratio per {item['type']} is {ratio}"
        if not requests.get(name):
            yield f"{bound}, but no request is specified or request is 0"
        elif not limits.get(name):
            yield f"{bound}, but no limit is specified or limit is 0"
        elif Fraction(limits[name], requests[name]) > Fraction(milli(ratio), 1000):
            yield f"{bound}, but provided ratio is {limits[name] / requests[name]:f}"


def _words(amount: int, like: str) -> str:
    return quantity(Fraction(amount, 1000), like)
