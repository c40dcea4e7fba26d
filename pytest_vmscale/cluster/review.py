"""May this account do what a run needs? Asked before anything is made, so that a missing right does not show in the middle."""

from __future__ import annotations

from collections.abc import Iterable

from ..rights import Right
from .requests import ApiError, Cluster, in_parallel

REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
EVERYTHING = Right("*", "*", "*")


async def missing(cluster: Cluster, needed: Iterable[Right]) -> list[Right]:
    """The rights that this account has not. None of them if the server does not answer such questions: then the requests tell."""
    try:
        if await _may(cluster, EVERYTHING):
            return []
    except ApiError as error:
        if error.status in (403, 404):
            return []
        raise
    lacking: list[Right] = []

    async def ask(right: Right) -> None:
        if not await _may(cluster, right):
            lacking.append(right)

    await in_parallel(ask, sorted(set(needed)))
    return sorted(lacking)


async def _may(cluster: Cluster, right: Right) -> bool:
    resource, _, subresource = right.resource.partition("/")
    attributes = {"verb": right.verb, "group": right.group, "resource": resource, "subresource": subresource, "namespace": right.namespace}
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {key: value for key, value in attributes.items() if value}},
    }
    answer = await cluster.send("POST", REVIEWS, body=review)
    return bool(answer.object.get("status", {}).get("allowed"))
