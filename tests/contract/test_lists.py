"""Lists: selectors, pages, versions and forms."""

from __future__ import annotations

import pytest

from .conftest import Api, config_map, vm

TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
PARTIAL = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"


@pytest.fixture
def six(api: Api) -> Api:
    for name, labels in {"a": {"t": "x", "n": "1"}, "b": {"t": "x", "n": "2"}, "c": {"t": "y", "n": "3"}, "d": {"t": "z"}, "e": {}, "f": {"other": ""}}.items():
        assert api.post(api.vms, vm(name, **labels)).code == 201
    return api


def names(api: Api, query: str) -> str:
    reply = api.get(f"{api.vms}?{query}")
    assert reply.code == 200, reply.text
    return "".join(item["metadata"]["name"] for item in reply.json["items"])


@pytest.mark.parametrize(("selector", "expected"), [
    ("t=x", "ab"), ("t==x", "ab"), ("t!=x", "cdef"), ("t", "abcd"), ("!t", "ef"), ("t in (x,y)", "abc"), ("t notin (x,y)", "def"),
    ("t in (x),n notin (1)", "b"), ("n>1", "bc"), ("n<3", "ab"), ("n>1,n<3", "b"), ("other=", "f"), ("other", "f"), ("t in (x), n", "ab"), ("a/b.c=d", ""), ("", "abcdef"),
])
def test_label_selectors(six: Api, selector: str, expected: str) -> None:
    from urllib.parse import quote

    assert names(six, f"labelSelector={quote(selector)}") == expected


@pytest.mark.parametrize("selector", ["a  b", "a in x", "=x", "a in (x", "a,,b", "-a", "a=b=c", "a>x"])
def test_label_selectors_that_are_none(six: Api, selector: str) -> None:
    from urllib.parse import quote

    reply = six.get(f"{six.vms}?labelSelector={quote(selector)}")
    assert (reply.code, reply.json["reason"]) == (400, "BadRequest")


def test_field_selectors(six: Api) -> None:
    assert names(six, "fieldSelector=metadata.name%3Dc") == "c"
    assert names(six, "fieldSelector=metadata.name!%3Dc") == "abdef"
    assert names(six, f"fieldSelector=metadata.namespace%3D{six.namespace},metadata.name%3Da") == "a"
    reply = six.get(f"{six.vms}?fieldSelector=spec.foo%3Dx")
    assert (reply.code, reply.json["message"]) == (400, "field label not supported: spec.foo")


def test_pages(six: Api) -> None:
    first = six.get(f"{six.vms}?limit=4").json
    assert (len(first["items"]), first["metadata"]["remainingItemCount"]) == (4, 2)
    six.delete(f"{six.vms}/e")
    six.post(six.vms, vm("g"))
    second = six.get(f"{six.vms}?limit=4&continue={first['metadata']['continue']}").json
    assert [item["metadata"]["name"] for item in second["items"]] == ["e", "f"]  # as it was at the first page
    assert second["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
    assert second["metadata"].get("continue", "") == ""
    assert "remainingItemCount" not in six.get(f"{six.vms}?limit=1&labelSelector=t").json["metadata"]  # not counted where a selector chooses


def test_pages_cover_everything_once(six: Api) -> None:
    seen, token = [], ""
    while True:
        page = six.get(f"{six.vms}?limit=1" + (f"&continue={token}" if token else "")).json
        seen += [item["metadata"]["name"] for item in page["items"]]
        token = page["metadata"].get("continue", "")
        if not token:
            break
    assert seen == list("abcdef")


def test_a_page_of_a_forgotten_version_offers_an_inconsistent_rest(embedded: Api) -> None:
    for name in "abc":
        embedded.post(embedded.vms, vm(name))
    token = embedded.get(f"{embedded.vms}?limit=1").json["metadata"]["continue"]
    embedded.post(embedded.vms, vm("d"))

    async def compact() -> None:
        embedded.embedded.forget()

    embedded.run(compact())
    reply = embedded.get(f"{embedded.vms}?limit=9&continue={token}")
    assert (reply.code, reply.json["reason"]) == (410, "Expired")
    rest = embedded.get(f"{embedded.vms}?limit=9&continue={reply.json['metadata']['continue']}").json
    assert [item["metadata"]["name"] for item in rest["items"]] == ["b", "c", "d"]


@pytest.mark.usefixtures("quiet")
def test_versions(six: Api) -> None:
    before = six.get(six.vms).json["metadata"]["resourceVersion"]
    six.delete(f"{six.vms}/a")
    assert names(six, "") == "bcdef"
    assert names(six, f"resourceVersion={before}&resourceVersionMatch=NotOlderThan") == "bcdef"
    assert names(six, f"resourceVersion={before}&resourceVersionMatch=Exact") == "abcdef"
    assert set(names(six, "resourceVersion=0")) <= set("abcdef")


@pytest.mark.parametrize(("query", "code"), [
    ("limit=x", 400), ("limit=2&continue=abc", 400), ("resourceVersion=abc", 400), ("resourceVersionMatch=Exact", 422), ("resourceVersion=0&resourceVersionMatch=Exact", 422),
    ("resourceVersion=1&resourceVersionMatch=Nope", 422), ("sendInitialEvents=true", 422), ("resourceVersion=99999999999", 504),
])
def test_queries_that_are_refused(six: Api, query: str, code: int) -> None:
    assert six.get(f"{six.vms}?{query}").code == code


def test_a_version_from_the_future_can_be_asked_for_again(six: Api) -> None:
    reply = six.get(f"{six.vms}?resourceVersion=99999999999")
    assert reply.json["details"]["causes"] == [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]
    assert reply.json["details"]["retryAfterSeconds"] == 1


def test_items_of_built_in_kinds_do_not_repeat_their_kind(api: Api) -> None:
    api.post(api.core("configmaps"), config_map("c"))
    listed = api.get(api.core("configmaps") + "?fieldSelector=metadata.name%3Dc").json
    assert (listed["kind"], listed["apiVersion"]) == ("ConfigMapList", "v1")
    assert not {"kind", "apiVersion"} & set(listed["items"][0])


def test_all_namespaces(six: Api) -> None:
    listed = six.get("/apis/kubevirt.io/v1/virtualmachines?labelSelector=t%3Dx").json
    assert [item["metadata"]["name"] for item in listed["items"] if item["metadata"]["namespace"] == six.namespace] == ["a", "b"]


def test_table(six: Api) -> None:
    table = six.get(f"{six.vms}?limit=2", accept=TABLE).json
    assert (table["kind"], len(table["rows"])) == ("Table", 2)
    assert [row["cells"][0] for row in table["rows"]] == ["a", "b"]
    assert table["metadata"]["continue"] and table["metadata"]["resourceVersion"]
    assert table["rows"][0]["object"]["kind"] == "PartialObjectMetadata"
    assert six.get(f"{six.vms}/a", accept=TABLE).json["rows"][0]["cells"][0] == "a"


def test_partial_metadata(six: Api) -> None:
    listed = six.get(six.vms, accept=PARTIAL).json
    assert listed["kind"] == "PartialObjectMetadataList"
    assert all(set(item) == {"kind", "apiVersion", "metadata"} for item in listed["items"])


def test_a_selector_as_long_as_a_fleet(api: Api) -> None:
    api.post(api.core("configmaps"), config_map("c", app="v4999"))
    names = ",".join(f"v{number}" for number in range(5000))
    found = api.get(f"{api.core('configmaps')}?labelSelector=app%20in%20({names})")
    assert (found.code, [each["metadata"]["name"] for each in found.json["items"]]) == (200, ["c"])
    assert api.get(api.core("configmaps"), headers={"X-Long": "x" * 20_000}).code == 200
