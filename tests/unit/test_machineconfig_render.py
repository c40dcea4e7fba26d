"""What machine configs come to: checks, the merge, its name, and what a change of it means to a machine."""

from __future__ import annotations

import pytest

from pytest_vmscale.embedded.controllers.machineconfig_names import PoolError, pools_of
from pytest_vmscale.embedded.controllers.machineconfig_pools import max_unavailable, order
from pytest_vmscale.embedded.controllers.machineconfig_render import RenderError, difference, file, merge, parse, rendered_name, text_of

IMAGE = "quay.io/os@sha256:1"


def config(name, *files, **spec):
    return {"metadata": {"name": name}, "spec": {"config": {"ignition": {"version": "3.2.0"}, "storage": {"files": list(files)}}, **spec}}


def merged(*configs):
    return merge(list(configs), IMAGE)


def test_a_config_is_named_by_its_content_not_by_what_it_is_merged_from():
    a, b = file("/etc/a", "a"), file("/etc/b", "b")
    once = merged(config("50-a", a), config("60-b", b))
    assert rendered_name("zone-0", once) == rendered_name("zone-0", merged(config("60-b", b), config("50-a", a)))
    assert rendered_name("zone-0", once) == rendered_name("zone-0", merged(config("50-a", a), config("60-b", b), config("70-again", a)))
    assert rendered_name("zone-0", once) != rendered_name("zone-0", merged(config("50-a", a), config("60-b", file("/etc/b", "other"))))
    pool, _, digest = rendered_name("zone-0", once).rpartition("-")
    assert (pool, len(digest)) == ("rendered-zone-0", 32)
    assert rendered_name("worker", once).endswith(digest)


def test_the_later_name_wins_a_path_and_lists_are_merged_by_their_keys():
    spec = merged(config("99-b", file("/etc/x", "later"), kernelArguments=["b"]), config("01-a", file("/etc/x", "earlier"), file("/etc/y", "y"),
                  kernelArguments=["a"], kernelType="realtime"))
    assert text_of(spec["config"], "/etc/x") == "later"
    assert [each["path"] for each in spec["config"]["storage"]["files"]] == ["/etc/x", "/etc/y"]
    assert (spec["kernelArguments"], spec["kernelType"], spec["osImageURL"], spec["fips"]) == (["a", "b"], "realtime", IMAGE, False)


def test_keys_that_ignition_does_not_have_are_dropped():
    found = parse({"ignition": {"version": "3.1.0"}, "networkd": {}, "storage": {"files": [{"path": "/etc/x", "filesystem": "root", "mode": 420}]}})
    assert found == {"ignition": {"version": "3.2.0"}, "storage": {"files": [{"path": "/etc/x", "mode": 420}]}}


@pytest.mark.parametrize(("broken", "message"), [
    ({"ignition": {"version": "9.0.0"}}, "parsing Ignition config failed: unknown version. Supported spec versions: 2.2, 3.0, 3.1, 3.2"),
    ({"storage": {}}, "invalid config version (couldn't parse)"),
    ({"ignition": {"version": "3.2.0"}, "storage": {"files": [{"path": "etc/x"}]}}, "error at $.storage.files.0.path: path not absolute"),
    ({"ignition": {"version": "3.2.0"}, "storage": {"files": [{"path": "/x"}, {"path": "/x"}]}}, "error at $.storage.files.1: duplicate entry defined"),
    ({"ignition": {"version": "3.2.0"}, "storage": {"files": [{"path": "/x", "contents": {"source": "foo:bar"}}]}}, "invalid url scheme"),
    ({"ignition": {"version": "3.2.0"}, "storage": {"files": [{"path": "/x", "mode": 0o1644}]}}, "invalid mode 01644 for /x, cannot exceed 0777"),
])
def test_a_bad_config_is_refused_in_the_operators_words(broken, message):
    with pytest.raises(RenderError) as caught:
        merge([{"metadata": {"name": "99-bad"}, "spec": {"config": broken}}], IMAGE)
    assert message in str(caught.value)


def test_only_some_changes_need_a_reboot_and_some_cannot_be_made():
    base = merged(config("00"))
    assert not difference(base, merged(config("00"), config("01"))).drain
    changed = difference(base, merged(config("00", file("/etc/x", "x"))))
    assert changed.reboot and changed.drain and changed.files == {"/etc/x"}
    registries = difference(base, merged(config("00", file("/etc/containers/registries.conf", ""))))
    assert (registries.reboot, registries.reload_crio, registries.drain) == (False, True, True)
    assert difference(base, merge([config("00")], "other image")).os_update
    with pytest.raises(RenderError, match="refusing to modify FIPS"):
        difference(base, merged(config("00", fips=True)))
    directories = config("00")
    directories["spec"]["config"]["storage"] = {"directories": [{"path": "/var/x"}]}
    with pytest.raises(RenderError, match="ignition directories section contains changes"):
        difference(base, merged(directories))


def pool(name, *labels):
    return {"metadata": {"name": name}, "spec": {"nodeSelector": {"matchLabels": dict.fromkeys(labels, "")}}}


def test_a_node_is_in_one_custom_pool_and_in_worker():
    pools = [pool("worker", "worker"), pool("master", "master"), pool("zone-0", "zone-0"), pool("zone-1", "zone-1"), pool("nobody")]

    def of(*labels):
        return [each["metadata"]["name"] for each in pools_of({"metadata": {"name": "n", "labels": dict.fromkeys(labels, "")}}, pools)]

    assert of("worker") == ["worker"]
    assert of("worker", "zone-0") == ["zone-0", "worker"]
    assert of("master", "worker") == ["master"]
    with pytest.raises(PoolError, match="node n belongs to 2 custom roles, cannot proceed with this Node"):
        of("worker", "zone-0", "zone-1")
    with pytest.raises(PoolError, match="node n has both master role and custom role zone-1"):
        of("master", "zone-1")


@pytest.mark.parametrize(("given", "nodes", "expected"), [(None, 34, 1), (10, 34, 10), (0, 34, 1), ("30%", 34, 10), ("1%", 34, 1), ("100%", 3, 3)])
def test_max_unavailable_is_rounded_down_but_never_zero(given, nodes, expected):
    assert max_unavailable({"spec": {} if given is None else {"maxUnavailable": given}}, nodes) == expected


def test_nodes_go_by_their_topology_zone_and_then_by_age():
    def node(name, at, zone=None):
        return {"metadata": {"name": name, "creationTimestamp": at, "labels": {"topology.kubernetes.io/zone": zone} if zone else {}}}

    nodes = [node("old", "1"), node("b-new", "3", "b"), node("a", "4", "a"), node("b-old", "2", "b"), node("new", "5")]
    assert [each["metadata"]["name"] for each in sorted(nodes, key=order)] == ["a", "b-old", "b-new", "old", "new"]
