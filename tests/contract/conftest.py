"""The API that the contract is checked on: the embedded one, in a thread of the test process, or any server that
VMSCALE_CONTRACT_KUBECONFIG names. That one needs KubeVirt's custom resource definitions; where virt-controller runs,
it writes to the VMs as well, and the tests that count writes to a VM are left out (`quiet`)."""

from __future__ import annotations

import asyncio
import base64
import datetime
import ipaddress
import json
import os
import secrets
import shutil
import ssl
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.client import HTTPSConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

KUBECONFIG = os.environ.get("VMSCALE_CONTRACT_KUBECONFIG")
PATIENCE_WALL_SECONDS = 20.0


@dataclass
class Reply:
    code: int
    headers: Any
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def warnings(self) -> list[str]:
        return self.headers.get_all("Warning") or []


@dataclass
class Api:
    """An API server, and how to ask it. `embedded` is the server object itself where it is ours."""

    url: str
    token: str
    context: ssl.SSLContext
    kubeconfig: Path
    namespace: str = ""
    embedded: Any = None
    run: Callable[[Any], Any] = field(default=lambda coroutine: None)

    def connect(self, timeout: float = 60) -> HTTPSConnection:
        parts = urlsplit(self.url)
        return HTTPSConnection(parts.hostname or "", parts.port or 443, context=self.context, timeout=timeout)

    def ask(self, method: str, path: str, body: Any = None, content: str = "application/json", accept: str = "application/json", token: str | None = None,
            headers: dict[str, str] | None = None) -> Reply:
        """One request on a connection of its own. `body`: bytes and text as they are, the rest as JSON."""
        data = body if body is None or isinstance(body, bytes) else body.encode() if isinstance(body, str) else json.dumps(body).encode()
        sent = {"Accept": accept, **({"Content-Type": content} if data is not None else {}), **(headers or {})}
        bearer = self.token if token is None else token
        if bearer:
            sent["Authorization"] = f"Bearer {bearer}"
        connection = self.connect()
        try:
            connection.request(method, path, body=data, headers=sent)
            reply = connection.getresponse()
            return Reply(reply.status, reply.headers, reply.read())
        finally:
            connection.close()

    def get(self, path: str, **more: Any) -> Reply:
        return self.ask("GET", path, **more)

    def post(self, path: str, body: Any, **more: Any) -> Reply:
        return self.ask("POST", path, body, **more)

    def put(self, path: str, body: Any, **more: Any) -> Reply:
        return self.ask("PUT", path, body, **more)

    def patch(self, path: str, body: Any, content: str = "application/merge-patch+json", **more: Any) -> Reply:
        return self.ask("PATCH", path, body, content=content, **more)

    def delete(self, path: str, body: Any = None, **more: Any) -> Reply:
        return self.ask("DELETE", path, body, **more)

    def watch(self, path: str, **more: Any) -> list[dict[str, Any]]:
        """All events of a watch that ends by itself (give it timeoutSeconds)."""
        reply = self.get(path, **more)
        assert reply.code == 200, reply.text
        return [json.loads(line) for line in reply.text.splitlines()]

    # Where things are.

    @property
    def vms(self) -> str:
        return f"/apis/kubevirt.io/v1/namespaces/{self.namespace}/virtualmachines"

    def core(self, plural: str) -> str:
        return f"/api/v1/namespaces/{self.namespace}/{plural}"


def vm(name: str, **labels: str) -> dict[str, Any]:
    return {"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "metadata": {"name": name, **({"labels": labels} if labels else {})},
            "spec": {"runStrategy": "Halted", "template": {"spec": {"domain": {"devices": {}}}}}}


def kubectls() -> list[str]:
    """The kubectl on the PATH, and those that VMSCALE_KUBECTLS names (separated as PATH is): clients of several ages."""
    found = shutil.which("kubectl")
    return [*([found] if found else []), *filter(None, os.environ.get("VMSCALE_KUBECTLS", "").split(os.pathsep))]


def config_map(name: str, data: dict[str, str] | None = None, **labels: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, **({"labels": labels} if labels else {})}, "data": data or {}}


def until(check: Callable[[], bool]) -> None:
    """A real server's caches follow its writes, and its controllers work beside it: wait until it is so."""
    end = time.monotonic() + PATIENCE_WALL_SECONDS
    while not check():
        assert time.monotonic() < end, "not so in time"
        time.sleep(0.05)


def certificate(folder: Path) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1, and its key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "contract-tests")])
    now = datetime.datetime.now(datetime.UTC)
    built = (x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(x509.random_serial_number())
             .not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(now + datetime.timedelta(days=1))
             .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
             .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True).sign(key, hashes.SHA256()))
    cert_file, key_file = folder / "server.crt", folder / "server.key"
    cert_file.write_bytes(built.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    return cert_file, key_file


def write_kubeconfig(path: Path, url: str, ca: Path, token: str) -> None:
    path.write_text(yaml.safe_dump({
        "apiVersion": "v1", "kind": "Config", "current-context": "c", "clusters": [{"name": "c", "cluster": {"server": url, "certificate-authority": str(ca)}}],
        "users": [{"name": "u", "user": {"token": token}}], "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u", "namespace": "default"}}]}))


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """The server, without a namespace to work in."""
    if KUBECONFIG:
        yield _real(Path(KUBECONFIG))
        return
    from pytest_vmscale.embedded.api.kinds import load_kinds
    from pytest_vmscale.embedded.api.resources import Resources
    from pytest_vmscale.embedded.api.server import ApiServer
    from pytest_vmscale.embedded.api.store import Store
    from pytest_vmscale.embedded.clock import SimClock

    folder = tmp_path_factory.mktemp("api")
    cert, key = certificate(folder)
    token = secrets.token_hex(16)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    def run(coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(30)

    async def start() -> tuple[ApiServer, int]:
        clock = SimClock(1.0)
        resources = Resources(Store(), load_kinds(), clock)
        api = ApiServer(resources, clock, admin_token=token)
        for name in ("default", "kube-system"):
            resources.create(resources.kind("namespaces"), {"metadata": {"name": name}})
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cert, key)
        return api, await api.serve("127.0.0.1", 0, context)

    api, port = run(start())
    kubeconfig = folder / "kubeconfig"
    write_kubeconfig(kubeconfig, f"https://127.0.0.1:{port}", cert, token)
    yield Api(f"https://127.0.0.1:{port}", token, ssl.create_default_context(cafile=cert), kubeconfig, embedded=api, run=run)
    run(api.close())
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)


def _real(path: Path) -> Api:
    """The server that a kubeconfig names, by a bearer token or a client certificate, inline or in files."""
    config = yaml.safe_load(path.read_text())
    chosen = next(each["context"] for each in config["contexts"] if each["name"] == config["current-context"])
    cluster = next(each["cluster"] for each in config["clusters"] if each["name"] == chosen["cluster"])
    user = next(each["user"] for each in config["users"] if each["name"] == chosen["user"])

    def text(where: dict[str, str], key: str) -> str | None:
        if f"{key}-data" in where:
            return base64.b64decode(where[f"{key}-data"]).decode()
        return (path.parent / where[key]).read_text() if key in where else None

    context = ssl.create_default_context(cadata=text(cluster, "certificate-authority"))
    certificate_text, key_text = text(user, "client-certificate"), text(user, "client-key")
    if certificate_text and key_text:
        with tempfile.NamedTemporaryFile("w", suffix=".pem") as both:
            both.write(certificate_text + "\n" + key_text)
            both.flush()
            context.load_cert_chain(both.name)
    return Api(cluster["server"], user.get("token", ""), context, path)


@pytest.fixture
def api(server: Api) -> Iterator[Api]:
    """The server, with a namespace of the test's own."""
    name = f"contract-{uuid.uuid4().hex[:8]}"
    assert server.post("/api/v1/namespaces", {"metadata": {"name": name}}).code == 201
    if server.embedded is None:  # a real server admits no pods before a controller has made their account
        until(lambda: server.get(f"/api/v1/namespaces/{name}/serviceaccounts/default").code == 200)
    yield Api(server.url, server.token, server.context, server.kubeconfig, name, server.embedded, server.run)
    server.delete(f"/api/v1/namespaces/{name}")


@pytest.fixture
def embedded(api: Api) -> Api:
    """For what only the embedded server can show (and what would be too rude to a real one)."""
    if api.embedded is None:
        pytest.skip("needs the embedded API server")
    return api


@pytest.fixture
def quiet(api: Api) -> Api:
    """For tests that need a VM that nobody else writes to."""
    running = api.get("/apis/apps/v1/deployments?fieldSelector=metadata.name%3Dvirt-controller").json["items"]
    if running:
        pytest.skip("virt-controller runs here and writes to every VM")
    return api
