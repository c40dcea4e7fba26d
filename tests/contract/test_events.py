"""Events, as the core group and as events.k8s.io/v1 show them: client-go's recorders write the latter, people read the former."""

from __future__ import annotations

from typing import Any

import pytest

from .conftest import Api


def path(api: Api, name: str = "") -> str:
    return f"/apis/events.k8s.io/v1/namespaces/{api.namespace}/events{'/' + name if name else ''}"


def recorded(api: Api, name: str, **changes: Any) -> dict[str, Any]:
    """As a recorder makes it; a change to None leaves something out."""
    event = {"metadata": {"name": name}, "eventTime": "2026-11-20T01:02:03.456789Z", "reportingController": "x.io/y", "reportingInstance": "z", "action": "Do",
             "reason": "Did", "type": "Normal", "note": "n", "regarding": {"kind": "Pod", "name": "p", "namespace": api.namespace, "apiVersion": "v1"}, **changes}
    return {key: value for key, value in event.items() if value is not None}


def test_one_event_under_two_names(api: Api) -> None:
    made = api.post(path(api), recorded(api, "e"))
    assert made.code == 201 and made.json["apiVersion"] == "events.k8s.io/v1"
    core = api.get(api.core("events/e")).json
    assert (core["apiVersion"], core["message"], core["reportingComponent"], core["involvedObject"]["name"]) == ("v1", "n", "x.io/y", "p")
    assert core["firstTimestamp"] is None and core["lastTimestamp"] is None and "note" not in core
    seen = api.get(path(api, "e")).json
    assert (seen["note"], seen["regarding"], seen["metadata"]["uid"]) == ("n", core["involvedObject"], core["metadata"]["uid"])
    assert seen["deprecatedFirstTimestamp"] is None


def test_an_older_event_seen_in_the_newer_group(api: Api) -> None:
    api.post(api.core("events"), {"metadata": {"name": "c"}, "involvedObject": {"kind": "Pod", "name": "p", "namespace": api.namespace}, "reason": "R", "message": "m",
                                  "type": "Normal", "source": {"component": "kubelet"}, "firstTimestamp": "2026-11-20T01:02:04Z", "count": 3})
    listed = api.get(path(api)).json
    assert (listed["apiVersion"], listed["kind"]) == ("events.k8s.io/v1", "EventList")
    seen = next(each for each in listed["items"] if each["metadata"]["name"] == "c")
    assert (seen["note"], seen["deprecatedCount"], seen["deprecatedSource"], seen["deprecatedFirstTimestamp"], seen["eventTime"]) == (
        "m", 3, {"component": "kubelet"}, "2026-11-20T01:02:04Z", None)
    assert "reportingController" not in seen and "message" not in seen


def test_a_repeat_is_a_patch_of_the_series(api: Api) -> None:
    api.post(path(api), recorded(api, "e"))
    series = {"count": 2, "lastObservedTime": "2026-11-20T01:03:00.000000Z"}
    assert api.patch(path(api, "e"), {"series": series}, content="application/strategic-merge-patch+json").json["series"] == series
    assert api.get(api.core("events/e")).json["series"] == series
    refused = api.patch(path(api, "e"), {"note": "another"})
    assert refused.code == 422 and "message: Invalid value: \"another\": field is immutable" in refused.json["message"]


def test_both_groups_are_watched(api: Api) -> None:
    version = api.get(path(api)).json["metadata"]["resourceVersion"]
    api.post(path(api), recorded(api, "e"))
    seen = api.watch(f"{path(api)}?watch=true&timeoutSeconds=1&resourceVersion={version}&fieldSelector=regarding.name%3Dp")
    assert [(each["type"], each["object"]["apiVersion"], each["object"]["note"]) for each in seen] == [("ADDED", "events.k8s.io/v1", "n")]
    core = api.watch(f"{api.core('events')}?watch=true&timeoutSeconds=1&resourceVersion={version}&fieldSelector=involvedObject.name%3Dp")
    assert [(each["type"], each["object"]["apiVersion"], each["object"]["message"]) for each in core] == [("ADDED", "v1", "n")]


def test_fields_are_selected_by_the_groups_own_names(api: Api) -> None:
    api.post(path(api), recorded(api, "e"))
    assert len(api.get(f"{path(api)}?fieldSelector=regarding.kind%3DPod,reportingController%3Dx.io/y").json["items"]) == 1
    assert not api.get(f"{path(api)}?fieldSelector=regarding.kind%3DNode").json["items"]
    refused = api.get(f"{path(api)}?fieldSelector=involvedObject.kind%3DPod")
    assert (refused.code, refused.json["message"]) == (400, "field label not supported: involvedObject.kind")


@pytest.mark.parametrize("change, cause", [
    ({"eventTime": None}, ("eventTime", "Required value")),
    ({"reportingController": None}, ("reportingController", "Required value")),
    ({"reportingInstance": None}, ("reportingInstance", "Required value")),
    ({"action": None}, ("action", "Required value")),
    ({"reason": None}, ("reason", "Required value")),
    ({"type": "Other"}, ("type", 'Invalid value: "": has invalid value: Other')),
    ({"deprecatedCount": 3}, ("count", 'Invalid value: "": needs to be unset')),
    ({"regarding": None}, ("involvedObject.namespace", 'Invalid value: "": does not match event.namespace')),
])
def test_a_new_event_says_who_did_what(api: Api, change: dict[str, Any], cause: tuple[str, str]) -> None:
    reply = api.post(path(api), recorded(api, "e", **change))
    assert reply.code == 422
    assert cause in [(each["field"], each["message"]) for each in reply.json["details"]["causes"]]


def test_an_event_lies_where_what_it_is_about_does(api: Api) -> None:
    def about(**reference: str) -> int:
        return api.post(api.core("events"), {"metadata": {"generateName": "e-"}, "involvedObject": {"name": "x", **reference}, "reason": "R", "message": "m"}).code

    assert (about(kind="Pod", namespace=api.namespace), about(kind="Pod", namespace="other"), about(kind="Node")) == (201, 422, 422)


def test_recorders_in_protobuf(api: Api) -> None:
    """A message as Go writes it: metadata.name, eventTime, reportingController, reportingInstance, action, reason, regarding, note, type."""
    def message(*fields: tuple[int, bytes | int]) -> bytes:
        found = b""
        for number, value in fields:
            found += bytes([number << 3]) + bytes([value]) if isinstance(value, int) else bytes([number << 3 | 2, len(value)]) + value
        return found

    regarding = message((1, b"Pod"), (2, api.namespace.encode()), (3, b"p"))
    event = message((1, message((1, b"go"))), (2, message((1, 100))), (4, b"x.io/y"), (5, b"z"), (6, b"Do"), (7, b"Did"), (8, regarding), (10, b"n"), (11, b"Normal"))
    body = b"k8s\0" + message((1, message((1, b"events.k8s.io/v1"), (2, b"Event"))), (2, event))
    made = api.post(path(api), body, content="application/vnd.kubernetes.protobuf")
    assert made.code == 201, made.text
    assert (made.json["eventTime"], api.get(api.core("events/go")).json["message"]) == ("1970-01-01T00:01:40.000000Z", "n")
