"""The only module that calls model-signing."""

from __future__ import annotations

import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, TypeVar

from model_signing import hashing, signing, verifying
from model_signing.manifest import Manifest

from rewriters.model.regular_files import check_source

from ..errors import KEY_UNUSABLE, NOT_SIGNABLE, AtpatchError
from .contents import Contents
from .options import SignOptions, VerifyOptions

__all__ = ["Hashed", "Signer", "Verifier", "first_words"]

Made = TypeVar("Made")

_MOST_KEY_BYTES = 2**20
_stdout = threading.Lock()
_ONLINE = "check that sigstore's public service can be reached, and that you are the identity"
_PASSWORD = "put the password of an encrypted key into ATPATCH_KEY_PASSWORD, and unset it for a key without one"
_CERTIFICATES = "give certificates as PEM files, each between BEGIN CERTIFICATE and END CERTIFICATE"


class Hashed(hashing.Config):
    """Hashes chosen files, and keeps what it found.

    Args:
        files: to hash; None: as the caller says.
        ignored: paths relative to the model that are left out.
        links: follow symbolic links.
        git: leave git's own files out.

    Attributes:
        found: file name → digest, hex; None until it has hashed. In a verification that is after the signature itself
            was found to be good.
        reached: whether it was asked to hash.
    """

    def __init__(
        self, files: tuple[Path, ...] | None = None, ignored: Iterable[str] = (), *, links: bool, git: bool = True
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.set_ignored_paths(paths=ignored, ignore_git_paths=git)
        self.set_allow_symlinks(links)
        self._files = files
        self.reached = False
        self.found: dict[str, str] | None = None

    def hash(self, model_path: Any, *, files_to_hash: Iterable[Any] | None = None) -> Manifest:
        self.reached = True
        manifest = super().hash(model_path, files_to_hash=self._files if files_to_hash is None else files_to_hash)
        self.found = {one.identifier: one.digest.digest_hex for one in manifest.resource_descriptors()}
        return manifest


class Signer:
    """Signs.

    Raises:
        AtpatchError: ATP002 and ATP021 (a file is missing), ATP096 (it is not what it should be).
    """

    def __init__(self, options: SignOptions) -> None:
        self._options = options
        self._config = signing.Config()  # type: ignore[no-untyped-call]
        if options.key is None:
            ambient = options.keyless == "ambient"
            _tried("the identity", lambda: self._config.use_sigstore_signer(use_ambient_credentials=ambient), _ONLINE)
        elif options.certificate is None:
            key, password = _pem(options.key), options.password
            _tried(
                f"{key} as a private key",
                # the library passes the password on, and cryptography wants bytes
                lambda: self._config.use_elliptic_key_signer(
                    private_key=key,
                    password=None if password is None else password.encode(),  # type: ignore[arg-type]
                ),
            )
        else:
            key, certificate = _pem(options.key), _pem(options.certificate)
            chain = [certificate] if options.chain is None else [_pem(options.chain)]
            _tried(
                f"{key} with {certificate}",
                lambda: self._config.use_certificate_signer(
                    private_key=key, signing_certificate=certificate, certificate_chain=chain
                ),
                "give the private key of this certificate, both as PEM files of an elliptic curve",
            )

    def sign(self, contents: Contents, ignored: Iterable[str]) -> tuple[bytes, tuple[str, ...]]:
        """The bytes of the signature, and the names of the files that it covers.

        Raises:
            AtpatchError: ATP096 (key or identity), ATP097 (a file cannot be read).
        """
        hashed = Hashed(contents.files, ignored, links=contents.links, git=contents.files is None)
        with tempfile.TemporaryDirectory(prefix="atpatch-") as folder:
            path = Path(folder) / "signature"
            self._config.set_hashing_config(hashed)
            what, advice = ("the key", None) if self._options.keyless is None else ("the identity", _ONLINE)
            try:
                _tried(what, lambda: self._config.sign(contents.root, path), advice)
            except AtpatchError as error:
                if hashed.found is None:  # it has not come to the key yet
                    raise NOT_SIGNABLE(f"{contents.root}: {first_words(error.__cause__)}") from error
                raise
            return path.read_bytes(), tuple(hashed.found or ())


class Verifier:
    """Verifies.

    Raises:
        AtpatchError: ATP002 and ATP021 (a file is missing), ATP096 (it is not what it should be).
    """

    def __init__(self, options: VerifyOptions) -> None:
        self._config = config = verifying.Config()  # type: ignore[no-untyped-call]
        if options.key is not None:
            key = _pem(options.key)
            self.trusted = str(key)
            _tried(f"{key} as a public key", lambda: config.use_elliptic_key_verifier(public_key=key))
        elif options.chain is not None:
            chain = _pem(options.chain)
            self.trusted = str(chain)
            _tried(
                f"{chain} as certificates",
                lambda: config.use_certificate_verifier(certificate_chain=[chain]),
                _CERTIFICATES,
            )
        else:
            identity, provider = str(options.identity), str(options.identity_provider)
            self.trusted = f"{identity} ({provider})"
            _tried(
                "the identity", lambda: config.use_sigstore_verifier(identity=identity, oidc_issuer=provider), _ONLINE
            )

    def verify(self, root: Path, signature: bytes, hashed: Hashed, *, whole: bool) -> None:
        """Raises whatever the library raises where the signature or the files are not good.

        Args:
            signature: bytes of the signature file.
            whole: nothing but what is signed may lie in the folder.
        """
        with tempfile.TemporaryDirectory(prefix="atpatch-") as folder, _quiet():
            path = Path(folder) / "signature"
            path.write_bytes(signature)
            config = self._config.set_hashing_config(hashed).set_ignore_unsigned_files(not whole)
            config.verify(root, path)


def _pem(path: str | os.PathLike[str]) -> Path:
    source = check_source(path, "give a PEM file")
    if source.stat().st_size > _MOST_KEY_BYTES:
        raise KEY_UNUSABLE(f"{source} is no PEM file: it has {source.stat().st_size} bytes")
    return source


def _tried(what: str, call: Callable[[], Made], advice: str | None = None) -> Made:
    """The result of a call of the library; it has no errors of its own, so any is one of the key."""
    try:
        with _quiet():
            return call()
    except Exception as error:
        # of an RSA key it looks for the curve
        no_curve = isinstance(error, AttributeError)
        words = "it is no key of an elliptic curve" if no_curve else first_words(error)
        if "password" in words.lower():
            advice = _PASSWORD
        raise KEY_UNUSABLE(f"model-signing cannot use {what}: {words}", advice) from error


def first_words(error: BaseException | None) -> str:
    """The first sentence of an error; its type where it says nothing."""
    return str(error).split("\n")[0].split(". ")[0] or type(error).__name__


@contextmanager
def _quiet() -> Iterator[None]:
    """What the library prints goes to stderr; stdout is for JSON. One thread at a time, since all share the stream."""
    with _stdout, redirect_stdout(sys.stderr):
        yield
