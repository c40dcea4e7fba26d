"""Create, read and replace."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from .conftest import Api, config_map, vm


def test_a_created_object_has_what_the_server_gives(api: Api) -> None:
    reply = api.post(api.vms, vm("a"))
    meta = reply.json["metadata"]
    assert reply.code == 201
    assert meta["generation"] == 1
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", meta["uid"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", meta["creationTimestamp"])
    assert meta["resourceVersion"].isdigit()
    assert api.get(f"{api.vms}/a").json == reply.json


def test_generated_names(api: Api) -> None:
    body = vm("x")
    body["metadata"] = {"generateName": "gen-"}
    names = {api.post(api.vms, body).json["metadata"]["name"] for _ in range(3)}
    assert len(names) == 3
    assert all(re.fullmatch(r"gen-[bcdfghjklmnpqrstvwxz2456789]{5}", name) for name in names)


def test_created_twice(api: Api) -> None:
    api.post(api.vms, vm("a"))
    reply = api.post(api.vms, vm("a"))
    assert (reply.code, reply.json["reason"]) == (409, "AlreadyExists")
    assert reply.json["details"] == {"name": "a", "group": "kubevirt.io", "kind": "virtualmachines"}


def test_what_the_client_may_not_set_is_the_servers(api: Api) -> None:
    body = vm("a")
    body["metadata"].update({"uid": "mine", "creationTimestamp": "2001-01-01T00:00:00Z", "generation": 77})
    body["status"] = {"printableStatus": "Running"}
    created = api.post(api.vms, body).json
    assert created["metadata"]["uid"] != "mine"
    assert created["metadata"]["creationTimestamp"] > "2020"
    assert created["metadata"]["generation"] == 1
    assert "status" not in created


@pytest.mark.parametrize(("body", "code"), [("{nope", 400), ("[]", 400), ("null", 400), ("", 400), ('"text"', 400)])
def test_a_body_that_is_no_object(api: Api, body: str, code: int) -> None:
    reply = api.post(api.vms, body)
    assert (reply.code, reply.json["kind"], reply.json["code"]) == (code, "Status", code)


def test_media_types(api: Api) -> None:
    assert api.post(api.vms, "apiVersion: kubevirt.io/v1\nkind: VirtualMachine\nmetadata: {name: \"y\"}\nspec: {running: false, template: {spec: {domain: {devices: {}}}}}\n",
                    content="application/yaml").code == 201
    assert api.post(api.vms, vm("z"), content="text/plain").code == 415
    assert api.get(f"{api.vms}/y", accept="text/html").code == 406
    assert api.get(f"{api.vms}/y", accept="application/yaml").text.startswith("apiVersion: kubevirt.io/v1\nkind: VirtualMachine\n")


@pytest.mark.parametrize(("change", "code", "words"), [
    ({"kind": "Other"}, 422, "kind: Invalid value: \"Other\": must be VirtualMachine"),
    ({"metadata": {"name": "a", "namespace": "default"}}, 400, "the namespace of the provided object does not match the namespace sent on the request"),
    ({"metadata": {"name": "Bad_Name"}}, 422, "a lowercase RFC 1123 subdomain must consist of"),
    ({"kind": ["VirtualMachine"]}, 400, "json: cannot unmarshal array into Go struct field .kind of type string"),
    ({"metadata": {}}, 422, "metadata.name: Required value: name or generateName is required"),
    ({"metadata": {"name": "a", "labels": {"a": "b c"}}}, 422, "a valid label must be an empty string or consist of"),
    ({"metadata": {"name": "a", "labels": {"a": 1}}}, 400, "json: cannot unmarshal number"),
    ({"metadata": "text"}, 400, "cannot"),
    ({"spec": {"runStrategy": 5}}, 422, "spec.runStrategy in body must be of type string"),
])
def test_objects_that_are_refused(api: Api, change: dict[str, object], code: int, words: str) -> None:
    reply = api.post(api.vms, {**vm("a"), **change})
    assert reply.code == code
    assert words in reply.json["message"]
    assert api.get(f"{api.vms}/a").code == 404


def test_a_refusal_is_in_the_form_that_was_asked_for(api: Api) -> None:
    assert api.get(f"{api.vms}/nope", accept="application/yaml").text.startswith("apiVersion: v1\ncode: 404\n")


def test_unknown_fields(api: Api) -> None:
    body = vm("a")
    body["spec"]["bogus"] = 1
    strict = api.post(f"{api.vms}?fieldValidation=Strict", body)
    assert (strict.code, strict.json["message"]) == (
        400, 'VirtualMachine in version "v1" cannot be handled as a VirtualMachine: strict decoding error: unknown field "spec.bogus"')
    warned = api.post(f"{api.vms}?dryRun=All", body)
    assert (warned.code, warned.warnings) == (201, ['299 - "unknown field \\"spec.bogus\\""'])
    ignored = api.post(f"{api.vms}?fieldValidation=Ignore", body)
    assert (ignored.code, ignored.warnings) == (201, [])
    assert "bogus" not in ignored.json["spec"]


def test_a_dry_run_keeps_nothing(api: Api) -> None:
    assert api.post(f"{api.vms}?dryRun=All", vm("a")).code == 201
    assert api.get(f"{api.vms}/a").code == 404
    api.post(api.vms, vm("a"))
    assert api.patch(f"{api.vms}/a?dryRun=All", {"metadata": {"labels": {"new": "1"}}}).json["metadata"]["labels"]["new"] == "1"
    assert api.delete(f"{api.vms}/a?dryRun=All").code == 200
    assert "new" not in api.get(f"{api.vms}/a").json["metadata"].get("labels", {})
    assert api.post(f"{api.vms}?dryRun=Some", vm("b")).code == 422


@pytest.mark.parametrize(("text", "name"), [
    ("on-a", "on-a"), ("1:30", None), ("2020-01-01", "2020-01-01"), ("y", None), ("off", None), ("1e3", None), ("0o17", None), ("1_000", None), ("'1'", "1"), ("!!binary aGk=", "hi"),
    ("a}\n---\nmetadata: {name: b", "a")])
def test_yaml_is_read_as_go_reads_it(api: Api, text: str, name: str | None) -> None:
    """y and n are booleans, 1e3 is a number; a date is text, and what follows the first document is left."""
    reply = api.post(api.core("configmaps"), f"metadata: {{name: {text}}}", content="application/yaml")
    assert (reply.json["metadata"]["name"] if reply.code == 201 else None) == name, reply.text


def test_in_a_namespace_that_is_not_there(api: Api) -> None:
    reply = api.post("/apis/kubevirt.io/v1/namespaces/no-such-namespace/virtualmachines", vm("a"))
    assert (reply.code, reply.json["message"]) == (404, 'namespaces "no-such-namespace" not found')


@pytest.mark.usefixtures("quiet")
def test_replace(api: Api) -> None:
    created = api.post(api.vms, vm("a")).json
    changed = {**created, "spec": {**created["spec"], "runStrategy": "Manual"}}
    updated = api.put(f"{api.vms}/a", changed)
    assert updated.code == 200
    assert updated.json["metadata"]["generation"] == 2
    assert updated.json["metadata"]["resourceVersion"] != created["metadata"]["resourceVersion"]
    stale = api.put(f"{api.vms}/a", changed)
    assert (stale.code, stale.json["reason"]) == (409, "Conflict")
    assert "the object has been modified; please apply your changes to the latest version and try again" in stale.json["message"]
    without = api.put(f"{api.vms}/a", vm("a"))
    assert (without.code, "metadata.resourceVersion: Invalid value: 0: must be specified for an update" in without.json["message"]) == (422, True)
    assert api.put(f"{api.vms}/a", {**changed, "metadata": {**changed["metadata"], "name": "b"}}).code == 400
    assert api.put(f"{api.vms}/nope", {**vm("nope"), "metadata": {"name": "nope", "resourceVersion": "1"}}).code == 404


def test_replace_of_a_built_in_kind_needs_no_version(api: Api) -> None:
    api.post(api.core("configmaps"), config_map("c", {"k": "1"}))
    updated = api.put(api.core("configmaps") + "/c", config_map("c", {"k": "2"}))
    assert (updated.code, updated.json["data"]) == (200, {"k": "2"})


@pytest.mark.usefixtures("quiet")
def test_a_write_that_changes_nothing_keeps_the_version(api: Api) -> None:
    created = api.post(api.vms, vm("a")).json
    assert api.put(f"{api.vms}/a", created).json["metadata"]["resourceVersion"] == created["metadata"]["resourceVersion"]


def test_labels_do_not_move_the_generation(api: Api) -> None:
    api.post(api.vms, vm("a"))
    assert api.patch(f"{api.vms}/a", {"metadata": {"labels": {"x": "y"}}}).json["metadata"]["generation"] == 1


@pytest.mark.usefixtures("quiet")
def test_status_and_the_rest_are_written_apart(api: Api) -> None:
    api.post(api.vms, vm("a"))
    through_main = api.patch(f"{api.vms}/a", {"status": {"printableStatus": "Running"}}).json
    assert "status" not in through_main
    through_status = api.patch(f"{api.vms}/a/status", {"status": {"printableStatus": "Running"}, "spec": {"runStrategy": "Always"}}).json
    assert through_status["status"] == {"printableStatus": "Running"}
    assert (through_status["spec"]["runStrategy"], through_status["metadata"]["generation"]) == ("Halted", 1)
    assert api.get(f"{api.vms}/a/status").json == api.get(f"{api.vms}/a").json


def test_a_kind_without_status_subresource_has_its_status_written_with_the_rest(api: Api) -> None:
    path = f"/apis/kubevirt.io/v1/namespaces/{api.namespace}/virtualmachineinstances"
    body = {"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance", "metadata": {"name": "i"}, "spec": {"domain": {"devices": {}}}, "status": {"phase": "Pending"}}
    assert api.post(path, body).json["status"]["phase"] == "Pending"
    assert api.patch(f"{path}/i", {"status": {"phase": "Running"}}).json["status"]["phase"] == "Running"
    assert api.get(f"{path}/i/status").code == 404


def test_another_version_of_the_same_object(api: Api) -> None:
    api.post(api.vms, vm("a"))
    old = api.vms.replace("/v1/", "/v1alpha3/")
    assert api.get(f"{old}/a").json["apiVersion"] == "kubevirt.io/v1alpha3"
    listed = api.get(old).json
    assert (listed["apiVersion"], listed["items"][0]["apiVersion"]) == ("kubevirt.io/v1alpha3", "kubevirt.io/v1alpha3")
    assert api.post(old, {**vm("b"), "apiVersion": "kubevirt.io/v1alpha3"}).json["apiVersion"] == "kubevirt.io/v1alpha3"
    assert api.get(f"{api.vms}/b").json["apiVersion"] == "kubevirt.io/v1"


def test_what_the_url_cannot_do(api: Api) -> None:
    api.post(api.vms, vm("a"))
    assert api.put(api.vms, vm("a")).json["message"] == "name must be provided"
    assert api.patch(api.vms, {}).json["message"] == "name must be provided"
    assert api.post(f"{api.vms}/other", vm("a")).json["reason"] == "AlreadyExists"  # a custom resource's name in the path is not looked at
    refused = api.post(api.core("configmaps") + "/c", config_map("c"))
    assert (refused.code, refused.json["message"], refused.json["details"]) == (405, "the server does not allow this method on the requested resource", {})


@pytest.mark.parametrize("method", ["POST", "DELETE"])
def test_nothing_is_written_above_namespaces(api: Api, method: str) -> None:
    """A client that forgets the namespace must not empty the cluster."""
    api.post(api.vms, vm("a", mine=api.namespace))
    body = vm("b") if method == "POST" else None
    assert api.ask(method, f"/apis/kubevirt.io/v1/virtualmachines?labelSelector=mine%3D{api.namespace}", body).code == 404
    assert api.ask(method, f"/api/v1/configmaps?labelSelector=mine%3D{api.namespace}", config_map("b") if body else None).code == 405
    assert [each["metadata"]["name"] for each in api.get(api.vms).json["items"]] == ["a"]


def test_a_version_that_is_none(api: Api) -> None:
    api.post(api.vms, vm("a"))
    path, body = api.core("configmaps"), config_map("c")
    api.post(path, body)
    for version, custom, built_in in (("abc", 500, 500), ("0", 422, 200), ("", 422, 200)):
        body["metadata"]["resourceVersion"] = version
        assert api.patch(f"{api.vms}/a", {"metadata": {"resourceVersion": version}}).code == custom
        assert api.put(f"{path}/c", body).code == built_in


def test_a_body_over_the_limit(api: Api) -> None:
    reply = api.post(api.core("configmaps"), config_map("big", {"k": "x" * 4 * 2**20}))
    assert (reply.code, reply.json["reason"]) == (413, "RequestEntityTooLarge")


def test_scale(api: Api) -> None:
    path = f"/apis/apps/v1/namespaces/{api.namespace}/deployments"
    template = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    api.post(path, {"metadata": {"name": "d"}, "spec": {"replicas": 2, "selector": {"matchLabels": {"a": "b"}}, "template": template}})
    scale = api.get(f"{path}/d/scale").json
    assert (scale["kind"], scale["spec"]["replicas"], scale["status"]["selector"]) == ("Scale", 2, "a=b")
    assert api.patch(f"{path}/d/scale", {"spec": {"replicas": 5}}).json["spec"]["replicas"] == 5
    deployment = api.get(f"{path}/d").json
    assert (deployment["spec"]["replicas"], deployment["metadata"]["generation"]) == (5, 2)
    assert api.patch(f"{path}/d/scale", {"spec": {"replicas": -1}}).code == 422


def test_the_answers_text_is_json_with_the_kind_first(api: Api) -> None:
    text = api.post(api.vms, vm("a")).text
    assert list(json.loads(text))[:2] == ["apiVersion", "kind"]


def test_a_job_selects_its_own_pods(api: Api) -> None:
    path = f"/apis/batch/v1/namespaces/{api.namespace}/jobs"
    template = {"spec": {"containers": [{"name": "c", "image": "i"}], "restartPolicy": "Never"}}
    job = api.post(path, {"metadata": {"name": "j"}, "spec": {"template": template, "suspend": True}}).json
    uid = job["metadata"]["uid"]
    assert job["spec"]["selector"] == {"matchLabels": {"batch.kubernetes.io/controller-uid": uid}}
    assert job["spec"]["template"]["metadata"]["labels"] == {
        "job-name": "j", "controller-uid": uid, "batch.kubernetes.io/job-name": "j", "batch.kubernetes.io/controller-uid": uid}
    manual = {"template": {**template, "metadata": {"labels": {"a": "b"}}}, "manualSelector": True, "selector": {"matchLabels": {"a": "b"}}, "suspend": True}
    assert api.post(path, {"metadata": {"name": "m"}, "spec": manual}).json["spec"]["template"]["metadata"]["labels"] == {"a": "b"}


def test_a_job_without_labels_has_those_of_its_pods(api: Api) -> None:
    def job(name: str, **labels: str) -> dict[str, Any]:
        template = {"metadata": {"labels": {"a": "b"}}, "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}
        reply = api.post(f"/apis/batch/v1/namespaces/{api.namespace}/jobs", {
            "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name, "labels": labels}, "spec": {"suspend": True, "template": template}})
        assert reply.code == 201, reply.text
        found: dict[str, Any] = reply.json["metadata"]
        return found

    plain = job("plain")
    assert (plain["labels"]["a"], plain["labels"]["job-name"], plain["labels"]["controller-uid"]) == ("b", "plain", plain["uid"])
    assert job("labelled", x="y")["labels"] == {"x": "y"}


@pytest.mark.parametrize("name, schedule, complaint", [
    ("c", "bad", 'spec.schedule: Invalid value: "bad": expected exactly 5 fields, found 1: [bad]'),
    ("c", "61 * * * *", 'spec.schedule: Invalid value: "61 * * * *": end of range (61) above maximum (59): 61'),
    ("c", "TZ=UTC * * * * *", 'spec.schedule: Invalid value: "TZ=UTC * * * * *": cannot use TZ or CRON_TZ in schedule, use timeZone field instead'),
    ("c", "", "spec.schedule: Required value"),
    ("c" * 53, "@daily", f'metadata.name: Invalid value: "{"c" * 53}": must be no more than 52 characters')])
def test_cron_jobs_that_never_come(api: Api, name: str, schedule: str, complaint: str) -> None:
    template = {"spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}}
    reply = api.post(f"/apis/batch/v1/namespaces/{api.namespace}/cronjobs", {
        "apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": name}, "spec": {"schedule": schedule, "jobTemplate": template}})
    assert (reply.code, reply.json["message"]) == (422, f'CronJob.batch "{name}" is invalid: {complaint}')


LABELS = "spec.template.metadata.labels: Invalid value: null: `selector` does not match template `labels`"
CONTAINERS = "spec.template.spec.containers: Required value"
POLICY = 'restartPolicy: Required value: valid values: "OnFailure", "Never"'


@pytest.mark.parametrize("kind, path, complaint", [
    ("Pod", "/api/v1", "spec.containers: Required value"), ("Deployment", "/apis/apps/v1", f"[spec.selector: Required value, {LABELS}, {CONTAINERS}]"),
    ("StatefulSet", "/apis/apps/v1", f"[spec.selector: Required value, {LABELS}, {CONTAINERS}]"), ("DaemonSet", "/apis/apps/v1", f"[{LABELS}, {CONTAINERS}]"),
    ("Job", "/apis/batch/v1", f"[{CONTAINERS}, spec.template.spec.{POLICY}]"),
    ("CronJob", "/apis/batch/v1", f"[spec.schedule: Required value, spec.jobTemplate.{CONTAINERS}, spec.jobTemplate.spec.template.spec.{POLICY}]")])
@pytest.mark.parametrize("spec", [None, {}])
def test_what_lacks_when_nothing_is_given(api: Api, kind: str, path: str, complaint: str, spec: Any) -> None:
    obj = {"apiVersion": path.removeprefix("/api/").removeprefix("/apis/"), "kind": kind, "metadata": {"name": "x"}, **({} if spec is None else {"spec": spec})}
    reply = api.post(f"{path}/namespaces/{api.namespace}/{kind.lower()}s", obj)
    group = path.removeprefix("/apis/").partition("/")[0] if path.startswith("/apis") else ""
    assert (reply.code, reply.json["message"]) == (422, f'{kind}{"." + group if group else ""} "x" is invalid: {complaint}')


def test_what_is_said_twice(api: Api) -> None:
    """The last one counts; strict validation refuses it, the default warns."""
    body = '{"metadata": {"name": "%s"}, "data": {"a": "1", "a": "2"}}'
    path = api.core("configmaps")
    warned = api.post(path, body % "warned")
    assert (warned.code, warned.json["data"], warned.warnings) == (201, {"a": "2"}, ['299 - "duplicate field \\"data.a\\""'])
    strict = api.post(f"{path}?fieldValidation=Strict", body % "strict")
    assert (strict.code, strict.json["message"]) == (
        400, 'ConfigMap in version "v1" cannot be handled as a ConfigMap: strict decoding error: duplicate field "data.a"')
    assert api.post(f"{path}?fieldValidation=Ignore", body % "ignored").warnings == []
    both = api.post(f"{path}?fieldValidation=Strict", '{"metadata": {"name": "a", "name": "b"}, "foo": 1}')
    assert both.json["message"].endswith('strict decoding error: duplicate field "metadata.name", unknown field "foo"')
    pod = '{"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i", "image": "j"}]}}'
    assert api.post(f"{api.core('pods')}?fieldValidation=Strict", pod).json["message"].endswith('duplicate field "spec.containers[0].image"')
    custom = json.dumps(vm("v"))[:-1] + ', "spec": {"runStrategy": "Always"}}'
    assert api.post(f"{api.vms}?fieldValidation=Strict", custom).json["message"].endswith('strict decoding error: duplicate field "spec"')


def test_an_object_has_one_controller(api: Api) -> None:
    owners = [{"apiVersion": "v1", "kind": "ConfigMap", "name": name, "uid": f"u-{name}", "controller": True} for name in "ab"]
    reply = api.post(api.core("configmaps"), {"metadata": {"name": "c", "ownerReferences": owners}})
    assert reply.code == 422
    assert 'Only one reference can have Controller set to true. Found "true" in references for ConfigMap/a and ConfigMap/b' in reply.json["message"]


def test_a_version_to_read_an_object_at(api: Api) -> None:
    api.post(api.core("configmaps"), config_map("c"))
    path = api.core("configmaps/c")
    assert api.get(f"{path}?resourceVersion=0").code == api.get(f"{path}?resourceVersion=1").code == 200
    early = api.get(f"{path}?resourceVersion=999999999999")
    assert (early.code, early.json["details"]["causes"][0]["reason"], early.json["details"]["retryAfterSeconds"]) == (504, "ResourceVersionTooLarge", 1)
    assert api.get(f"{path}?resourceVersion=x").code == 500


@pytest.mark.parametrize("plural, body, cause", [
    ("policy/v1/poddisruptionbudgets", {"spec": {"minAvailable": "x%"}}, ("spec.minAvailable", "Invalid value: \"x%\": a valid percent string must be a numeric string")),
    ("policy/v1/poddisruptionbudgets", {"spec": {"maxUnavailable": -1}}, ("spec.maxUnavailable", "Invalid value: -1: must be greater than or equal to 0")),
    ("coordination.k8s.io/v1/leases", {"spec": {"leaseDurationSeconds": 0}}, ("spec.leaseDurationSeconds", "Invalid value: 0: must be greater than 0")),
    ("rbac.authorization.k8s.io/v1/roles", {"rules": [{"verbs": ["get"]}]}, ("rules[0].apiGroups", "Required value: resource rules must supply at least one api group")),
    ("rbac.authorization.k8s.io/v1/rolebindings", {"roleRef": {"kind": "Role", "name": "r"}, "subjects": [{"kind": "Robot", "name": "x"}]},
     ("subjects[0].kind", 'Unsupported value: "Robot": supported values: "ServiceAccount", "User", "Group"')),
    ("secrets", {"type": "kubernetes.io/tls"}, ("data[tls.crt]", "Required value")),
])
def test_built_in_kinds_that_are_refused(api: Api, plural: str, body: dict[str, Any], cause: tuple[str, str]) -> None:
    group, _, name = plural.rpartition("/")
    path = f"/apis/{group}/namespaces/{api.namespace}/{name}" if group else api.core(plural)
    reply = api.post(path, {"metadata": {"name": "x"}, **body})
    assert reply.code == 422
    assert any(each["field"] == cause[0] and each["message"].startswith(cause[1]) for each in reply.json["details"]["causes"])


def test_a_secret_that_is_no_base64(api: Api) -> None:
    reply = api.post(api.core("secrets"), {"metadata": {"name": "s"}, "data": {"a": "YQ!!"}})
    assert (reply.code, reply.json["message"]) == (400, 'Secret in version "v1" cannot be handled as a Secret: illegal base64 data at input byte 2')


def test_a_namespace_keeps_its_finalizer(api: Api) -> None:
    """But for the finalize subresource: else it could go before what is in it."""
    reply = api.patch(f"/api/v1/namespaces/{api.namespace}", {"spec": {"finalizers": []}})
    assert (reply.code, reply.json["spec"]["finalizers"]) == (200, ["kubernetes"])


def test_a_pods_grace_period_stays(api: Api) -> None:
    api.post(api.core("pods"), {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}})
    assert api.patch(api.core("pods/p"), {"spec": {"terminationGracePeriodSeconds": 5}}).code == 422


def test_an_unbound_claim_cannot_grow(api: Api) -> None:
    api.post(api.core("persistentvolumeclaims"), {"metadata": {"name": "c"}, "spec": {
        "accessModes": ["ReadWriteOnce"], "storageClassName": "none", "resources": {"requests": {"storage": "1Gi"}}}})
    reply = api.patch(api.core("persistentvolumeclaims/c"), {"spec": {"resources": {"requests": {"storage": "2Gi"}}}})
    assert reply.code == 422 and "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims" in reply.json["message"]
