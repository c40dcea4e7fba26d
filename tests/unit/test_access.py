"""Kubeconfigs good and bad: what is read of them, and the one line for each that cannot be used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pytest_vmscale.cluster.access import ClusterError, JumpHost, load_access

from .scripted import kubeconfig

SERVER = "http://127.0.0.1:6443"


def test_server_and_token(tmp_path: Path) -> None:
    access = load_access(kubeconfig(tmp_path, SERVER + "/"))
    assert (access.server, access.context, access.embedded, access.tls) == (SERVER, "here", None, None)
    assert access.authorization() == "Bearer secret"


def test_basic_auth_and_no_credentials(tmp_path: Path) -> None:
    assert load_access(kubeconfig(tmp_path, SERVER, user={"username": "u", "password": "p"})).authorization() == "Basic dTpw"
    assert load_access(kubeconfig(tmp_path, SERVER, user={"client-certificate": "x"})).authorization() is None


def test_the_embedded_cluster_tells_of_itself(tmp_path: Path) -> None:
    told = {"speed": 20, "guestSshPort": 2222, "jumpHost": {"host": "127.1.0.1", "port": 2022, "user": "jump", "keyFile": "/k"}}
    path = kubeconfig(tmp_path, SERVER, cluster={"extensions": [{"name": "other"}, {"name": "vmscale.io/embedded", "extension": told}]})
    embedded = load_access(path).embedded
    assert embedded is not None
    assert (embedded.speed, embedded.guest_ssh_port, embedded.jump_host) == (20.0, 2222, JumpHost("127.1.0.1", 2022, "jump", Path("/k")))


def test_a_broken_extension_is_an_error(tmp_path: Path) -> None:
    path = kubeconfig(tmp_path, SERVER, cluster={"extensions": [{"name": "vmscale.io/embedded", "extension": {"speed": "fast"}}]})
    with pytest.raises(ClusterError, match="extension vmscale.io/embedded is not as expected"):
        load_access(path)


def test_a_credential_plugin_that_fails_is_an_error_and_no_anonymous_run(tmp_path: Path) -> None:
    plugin = {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "false", "interactiveMode": "Never"}}
    with pytest.raises(ClusterError, match="credential plugin 'false' gave no credentials"):
        load_access(kubeconfig(tmp_path, SERVER, user=plugin))


def test_a_credential_plugin_gives_a_token(tmp_path: Path) -> None:
    script = tmp_path / "plugin"
    told = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": {"token": "from-plugin"}}
    script.write_text(f"#!/bin/sh\necho '{json.dumps(told)}'\n")
    script.chmod(0o755)
    plugin = {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": str(script), "interactiveMode": "Never"}}
    assert load_access(kubeconfig(tmp_path, SERVER, user=plugin)).authorization() == "Bearer from-plugin"


def test_several_files_are_joined_as_in_kubeconfig(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    one, two = kubeconfig(tmp_path / "one", "http://127.0.0.1:1"), kubeconfig(tmp_path / "two", "http://127.0.0.1:2")
    text = json.loads(two.read_text())
    text["contexts"][0]["name"] = text["clusters"][0]["name"] = text["contexts"][0]["context"]["cluster"] = "there"
    two.write_text(json.dumps(text))
    assert load_access(f"{one}:{two}").server == "http://127.0.0.1:1"
    assert load_access(f"{one}:{two}", "there").server == "http://127.0.0.1:2"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (None, "No such file"),
        ("", "is empty"),
        ("a: [", "is not YAML"),
        ("- a", "not a kubeconfig"),
        ({"clusters": []}, "no current-context: give --context"),
        ({"current-context": "x", "contexts": [{"name": "y"}]}, r"no context 'x' \(it has: y\)"),
        (
            {"current-context": "x", "contexts": [{"name": "x", "context": {"cluster": "c"}}]},
            "names the cluster 'c', of which it has no server",
        ),
        (
            {
                "current-context": "x",
                "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
                "clusters": [{"name": "c", "cluster": {"server": "https://h", "certificate-authority": "/nowhere/ca"}}],
                "users": [{"name": "u", "user": {"token": "t"}}],
            },
            "/nowhere/ca",
        ),
        (
            {
                "current-context": "x",
                "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
                "clusters": [{"name": "c", "cluster": {"server": "https://h", "certificate-authority-data": "bm90IGEgY2VydA=="}}],
                "users": [{"name": "u", "user": {"token": "t"}}],
            },
            "certificates cannot be used",
        ),
    ],
)
def test_what_cannot_be_used_says_why_in_one_line(tmp_path: Path, text: Any, complaint: str) -> None:
    path = tmp_path / "config"
    if text is not None:
        path.write_text(text if isinstance(text, str) else json.dumps(text))
    with pytest.raises(ClusterError, match=complaint) as caught:
        load_access(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_nothing_is_used_by_accident(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".kube").mkdir()
    kubeconfig(tmp_path / ".kube", SERVER).rename(tmp_path / ".kube" / "config")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ClusterError, match="no cluster is named"):
        load_access(None)


def test_outside_a_pod_there_is_no_service_account(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(ClusterError, match="no pod with a service account"):
        load_access(None, in_cluster=True)


def test_proxies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://proxy:3128")
    monkeypatch.setenv("http_proxy", "http://proxy:3128")
    monkeypatch.setenv("no_proxy", "inside.example")
    assert load_access(kubeconfig(tmp_path, "http://outside.example")).proxy == "http://proxy:3128"
    assert load_access(kubeconfig(tmp_path, "http://inside.example")).proxy is None
    assert load_access(kubeconfig(tmp_path, SERVER)).proxy is None
    assert load_access(kubeconfig(tmp_path, SERVER, cluster={"proxy-url": "http://own:1"})).proxy == "http://own:1"
    with pytest.raises(ClusterError, match="'socks5://own:1' is not an HTTP proxy"):
        load_access(kubeconfig(tmp_path, SERVER, cluster={"proxy-url": "socks5://own:1"}))


@pytest.mark.parametrize("text", ["clusters: foo\ncurrent-context: a\n", "contexts: [null]\ncurrent-context: a\n"])
def test_what_only_looks_like_a_kubeconfig_is_one_line(tmp_path, text):
    path = tmp_path / "config"
    path.write_text(text)
    with pytest.raises(ClusterError, match="are no list of named entries"):
        load_access(path)
