"""The key pair with which a run logs in to its guests."""

from __future__ import annotations

import os
from pathlib import Path


def make_key(path: Path, comment: str) -> str:
    """Write a new Ed25519 private key (OpenSSH format, mode 0600) and return its public half, one line."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption())
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(private)
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return f"{public.decode()} {comment}"


def public_half(path: Path) -> str:
    """The public half of a private key, one line in OpenSSH format. ValueError if it cannot be read or has a passphrase."""
    from cryptography.hazmat.primitives import serialization

    try:
        data = path.expanduser().read_bytes()
        load = serialization.load_ssh_private_key if b"OPENSSH PRIVATE KEY" in data else serialization.load_pem_private_key
        key = load(data, None)
        public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"SSH key {path}: {error}") from None
    return f"{public.decode()} vmscale"
