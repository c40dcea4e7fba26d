"""What the embedded cluster leaves on disk for its clients: its certificates, token, keys and kubeconfig."""

from __future__ import annotations

import datetime
import ipaddress
import os
import secrets
import ssl
from pathlib import Path
from typing import Any

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

EXTENSION = "vmscale.io/embedded"
VALID_DAYS = 30


class State:
    """The state directory: made if it is not there, open to its owner alone, as is every file in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.chmod(0o700)
        self.kubeconfig = folder / "kubeconfig"
        self.jump_key = folder / "jump-host-key"
        self.token = secrets.token_urlsafe(32)
        self.ca_certificate = ""  # PEM, once tls() has made it
        self._ca, self._cert, self._key = folder / "ca.crt", folder / "server.crt", folder / "server.key"

    def write(self, name: str, content: bytes) -> Path:
        """Write a file of mode 0600, never readable to others even for a moment."""
        path = self.folder / name
        path.unlink(missing_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        return path

    def tls(self, addresses: list[str]) -> ssl.SSLContext:
        """Make a CA and a server certificate for these IP addresses (and `localhost`), and a context that serves it."""
        ca_key, ca = _certificate("embedded-cluster-ca", None, [])
        key, certificate = _certificate("embedded-cluster", (ca_key, ca), addresses)
        self.write(self._ca.name, ca.public_bytes(serialization.Encoding.PEM))
        self.write(self._cert.name, certificate.public_bytes(serialization.Encoding.PEM))
        self.write(self._key.name, key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
        self.ca_certificate = ca.public_bytes(serialization.Encoding.PEM).decode()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(self._cert, self._key)
        return context

    def write_kubeconfig(self, url: str, extension: dict[str, Any]) -> Path:
        """A kubeconfig that any client takes; the extension tells ours that this cluster is the embedded one."""
        config = {
            "apiVersion": "v1", "kind": "Config", "current-context": "embedded", "preferences": {},
            "clusters": [{"name": "embedded", "cluster": {
                "server": url, "certificate-authority": str(self._ca.absolute()),
                "extensions": [{"name": EXTENSION, "extension": extension}]}}],
            "users": [{"name": "admin", "user": {"token": self.token}}],
            "contexts": [{"name": "embedded", "context": {"cluster": "embedded", "user": "admin", "namespace": "default"}}],
        }
        return self.write(self.kubeconfig.name, yaml.safe_dump(config, sort_keys=False).encode())


def _certificate(name: str, issuer: tuple[ec.EllipticCurvePrivateKey, x509.Certificate] | None,
                 addresses: list[str]) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    """A new key, and its certificate: a CA's if there is no issuer."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    signer = issuer[0] if issuer else key
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer[1].subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=VALID_DAYS))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )
    if issuer is None:
        builder = builder.add_extension(x509.KeyUsage(
            digital_signature=True, key_cert_sign=True, crl_sign=True, content_commitment=False, key_encipherment=False,
            data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False), critical=True)
    else:
        names: list[x509.GeneralName] = [x509.IPAddress(ipaddress.ip_address(each)) for each in addresses]
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost"), *names]), critical=False)
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    return key, builder.sign(signer, hashes.SHA256())
