"""Keys and certificates of two signers."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

__all__ = ["Keys", "make_keys"]

_PEM = serialization.Encoding.PEM


@dataclass(frozen=True)
class Keys:
    """Files of one signer; the certificate is vouched for by the intermediate one, and that by the root."""

    private: Path
    public: Path
    encrypted: Path
    certificate: Path
    intermediate: Path
    root: Path


def make_keys(folder: Path, curve: ec.EllipticCurve | None = None) -> Keys:
    """Write them. The encrypted key has the password "open sesame"."""
    folder.mkdir(parents=True, exist_ok=True)
    files = Keys(**{name: folder / f"{name}.pem" for name in Keys.__annotations__})
    root, middle, leaf = (ec.generate_private_key(curve or ec.SECP256R1()) for _ in range(3))
    form = serialization.PrivateFormat.PKCS8
    files.private.write_bytes(leaf.private_bytes(_PEM, form, serialization.NoEncryption()))
    files.encrypted.write_bytes(leaf.private_bytes(_PEM, form, serialization.BestAvailableEncryption(b"open sesame")))
    public = leaf.public_key().public_bytes(_PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    files.public.write_bytes(public)
    for path, subject, key, issuer, signer in (
        (files.root, "root", root, "root", root),
        (files.intermediate, "intermediate", middle, "root", root),
        (files.certificate, "signer", leaf, "intermediate", middle),
    ):
        path.write_bytes(_certificate(subject, key, issuer, signer, leaf=subject == "signer"))
    return files


def _certificate(
    subject: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: str,
    signer: ec.EllipticCurvePrivateKey,
    *,
    leaf: bool,
) -> bytes:
    now = datetime.now(UTC)
    names = (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]) for name in (subject, issuer))
    usage = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only",
         "decipher_only", "crl_sign"), False
    )  # fmt: skip
    builder = (
        x509.CertificateBuilder()
        .subject_name(next(names))
        .issuer_name(next(names))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=30))
        .add_extension(x509.BasicConstraints(ca=not leaf, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(digital_signature=leaf, key_cert_sign=not leaf, **usage), critical=True)
    )
    return builder.sign(signer, hashes.SHA256()).public_bytes(_PEM)
