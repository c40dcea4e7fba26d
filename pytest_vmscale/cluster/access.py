"""Where an API server is, and how to be let in: kubeconfig or service account, to what the requests need."""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

EMBEDDED_EXTENSION = "vmscale.io/embedded"


class ClusterError(Exception):
    """Something about the cluster stops the run. Its text is one line for the user."""


@dataclass(frozen=True)
class JumpHost:
    """An SSH server from which guests can be reached."""

    host: str
    port: int
    user: str
    key_file: Path | None = None
    known_hosts: Path | None = None  # None: its host key is not checked


@dataclass(frozen=True)
class Embedded:
    """What the embedded cluster says of itself in its kubeconfig."""

    speed: float
    guest_ssh_port: int
    jump_host: JumpHost | None


@dataclass
class Access:
    """A server and the credentials for it. `embedded` is None on a real cluster."""

    server: str
    context: str
    source: str
    tls: ssl.SSLContext | None
    server_name: str | None
    proxy: str | None
    embedded: Embedded | None
    _configuration: Any = field(repr=False)
    _load: Any = field(repr=False)

    def authorization(self) -> str | None:
        """The Authorization header's value. Renews a token that is about to expire, which may run a program:
        not for an event loop's thread. ClusterError if it cannot."""
        try:
            value = self._configuration.get_api_key_with_prefix("BearerToken", alias="authorization")
        except Exception as error:  # a credential plugin may raise anything
            raise ClusterError(f"{self.server}: cannot renew the credentials of {self.source}: {_line(error)}") from error
        return str(value) if value else None

    def reload(self) -> str | None:
        """Read the credentials anew, as after a login, a rotated token file or a 401; returns what authorization() does."""
        self._configuration = self._load()
        return self.authorization()


def load_access(kubeconfig: Path | str | None, context: str | None = None, in_cluster: bool = False) -> Access:
    """Read a kubeconfig (or several, joined as in KUBECONFIG), or the pod's service account if `in_cluster`.

    Nothing is looked for elsewhere: ~/.kube/config is never used by accident. ClusterError if it cannot be used."""
    if in_cluster:
        return _from_service_account()
    if kubeconfig is None:
        raise ClusterError("no cluster is named: give --kubeconfig, or set KUBECONFIG")
    return _from_kubeconfig(str(kubeconfig), context)


def look_at(kubeconfig: Path | str, context: str | None = None) -> Embedded | None:
    """What a kubeconfig says of an embedded cluster, None of a real one. ClusterError if it names no cluster. Contacts nothing."""
    _, cluster, _ = _select(str(kubeconfig), _read(str(kubeconfig)), context)
    return _embedded(cluster, str(kubeconfig))


def _from_service_account() -> Access:
    from kubernetes import client, config

    def load() -> Any:
        configuration = client.Configuration()
        config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
        return configuration

    try:
        configuration = load()
    except config.ConfigException as error:
        raise ClusterError(f"this is no pod with a service account: {_line(error)}") from error
    return _access(configuration, load, context="in-cluster", source="the pod's service account", embedded=None)


def _from_kubeconfig(files: str, context: str | None) -> Access:
    from kubernetes import client, config

    documents = _read(files)
    name, cluster_entry, user = _select(files, documents, context)

    def load() -> Any:
        configuration = client.Configuration()
        config.load_kube_config(config_file=files, context=name, client_configuration=configuration)  # type: ignore[no-untyped-call]
        return configuration

    source = f"context {name!r} of {files}"
    try:
        configuration = load()
    except Exception as error:  # ConfigException, or what a credential plugin, a base64 or a file raises
        raise ClusterError(f"{source} cannot be used: {_line(error)}") from error
    if user.get("exec") and not configuration.api_key and not configuration.cert_file:
        # The kubernetes package only logs a plugin's failure; the run would go on as system:anonymous.
        raise ClusterError(f"{source}: its credential plugin {user['exec'].get('command')!r} gave no credentials")
    return _access(
        configuration, load, context=name, source=source, embedded=_embedded(cluster_entry, files), proxy_url=cluster_entry.get("proxy-url")
    )


def _read(files: str) -> list[Mapping[str, Any]]:
    import yaml

    documents: list[Mapping[str, Any]] = []
    for file in files.split(os.pathsep):
        if not file:
            continue
        try:
            document = yaml.safe_load(Path(file).expanduser().read_text(encoding="utf-8"))
        except OSError as error:
            raise ClusterError(f"kubeconfig {file}: {error.strerror}") from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ClusterError(f"kubeconfig {file} is not YAML: {_line(error)}") from error
        if not isinstance(document, dict):
            raise ClusterError(f"kubeconfig {file} is empty, or not a kubeconfig")
        for plural in ("clusters", "contexts", "users"):
            entries = document.get(plural) or []
            if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
                raise ClusterError(f"kubeconfig {file}: its {plural} are no list of named entries")
        documents.append(document)
    if not documents:
        raise ClusterError(f"no kubeconfig is named by {files!r}")
    return documents


def _select(files: str, documents: list[Mapping[str, Any]], context: str | None) -> tuple[str, Mapping[str, Any], Mapping[str, Any]]:
    """The context's name, its cluster and its user. As in kubectl, the first file that has an entry wins."""
    name = context or next((str(d["current-context"]) for d in documents if d.get("current-context")), None)
    if name is None:
        raise ClusterError(f"kubeconfig {files} has no current-context: give --context")
    chosen = _entry(documents, "contexts", name, "context")
    if chosen is None:
        known = ", ".join(sorted(str(c.get("name")) for d in documents for c in d.get("contexts") or ())) or "none"
        raise ClusterError(f"kubeconfig {files} has no context {name!r} (it has: {known})")
    cluster = _entry(documents, "clusters", chosen.get("cluster"), "cluster")
    if cluster is None or not cluster.get("server"):
        raise ClusterError(f"kubeconfig {files}: context {name!r} names the cluster {chosen.get('cluster')!r}, of which it has no server")
    return name, cluster, _entry(documents, "users", chosen.get("user"), "user") or {}


def _entry(documents: list[Mapping[str, Any]], plural: str, name: object, singular: str) -> Mapping[str, Any] | None:
    for document in documents:
        for entry in document.get(plural) or ():
            if entry.get("name") == name:
                return entry.get(singular) or {}
    return None


def _embedded(cluster: Mapping[str, Any], files: str) -> Embedded | None:
    for entry in cluster.get("extensions") or ():
        if entry.get("name") != EMBEDDED_EXTENSION:
            continue
        try:
            told = entry["extension"]
            jump = told.get("jumpHost")
            return Embedded(
                speed=float(told["speed"]),
                guest_ssh_port=int(told["guestSshPort"]),
                jump_host=JumpHost(jump["host"], int(jump["port"]), jump["user"], Path(jump["keyFile"]) if jump.get("keyFile") else None)
                if jump
                else None,
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ClusterError(f"kubeconfig {files}: its extension {EMBEDDED_EXTENSION} is not as expected: {error!r}") from error
    return None


def _access(configuration: Any, load: Any, *, context: str, source: str, embedded: Embedded | None, proxy_url: str | None = None) -> Access:
    return Access(
        server=configuration.host,
        context=context,
        source=source,
        tls=_tls(configuration, source) if configuration.host.startswith("https") else None,
        server_name=configuration.tls_server_name,
        proxy=_proxy(configuration, explicit=proxy_url, source=source),
        embedded=embedded,
        _configuration=configuration,
        _load=load,
    )


def _proxy(configuration: Any, explicit: str | None, source: str) -> str | None:
    """The kubeconfig's proxy-url, or the environment's proxy unless it is to be passed by for this host."""
    from urllib.request import proxy_bypass

    url = explicit
    if url is None and configuration.proxy:
        host = urlsplit(configuration.host).hostname or ""
        url = None if _is_loopback(host) or proxy_bypass(host) else str(configuration.proxy)
    if url and not url.startswith(("http://", "https://")):
        raise ClusterError(f"{source}: proxy {url!r} is not an HTTP proxy")
    return url


def _is_loopback(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")


def _tls(configuration: Any, source: str) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=configuration.ssl_ca_cert)
        if configuration.ca_cert_data:
            context.load_verify_locations(cadata=configuration.ca_cert_data)
        if configuration.cert_file:
            context.load_cert_chain(configuration.cert_file, configuration.key_file)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise ClusterError(f"{source}: its certificates cannot be used: {_line(error)}") from error
    if not configuration.verify_ssl:  # insecure-skip-tls-verify: the kubeconfig's own word, as kubectl takes it
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
