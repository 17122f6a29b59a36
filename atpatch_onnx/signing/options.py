"""Options of `sign` and `verify`: whose signature it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypedDict

from ..errors import BAD_OPTION
from ..options import option

if TYPE_CHECKING:
    from rewriters.model.forms import PathLike

__all__ = ["SignKeywords", "SignOptions", "VerifyKeywords", "VerifyOptions"]

Keyless = Literal["browser", "ambient"]


class SignKeywords(TypedDict, total=False):
    """`SignOptions` as keywords of a call."""

    key: PathLike | None
    password: str | None
    certificate: PathLike | None
    chain: PathLike | None
    keyless: Keyless | None


class VerifyKeywords(TypedDict, total=False):
    """`VerifyOptions` as keywords of a call."""

    key: PathLike | None
    chain: PathLike | None
    identity: str | None
    identity_provider: str | None


@dataclass(frozen=True, kw_only=True)
class SignOptions:
    """Who signs. None: not given.

    Attributes:
        key: private key, a PEM file of an elliptic curve (P-256, P-384 or P-521).
        password: of an encrypted key.
        certificate: the signer's certificate, which holds the public half of the key; a PEM file. It becomes a part of
            the signature.
        chain: certificates between the signer's and the root, in one PEM file; they become a part of the signature.
        keyless: sign with an identity instead of a key, over the network: log in with a browser, or use the ambient
            identity of a build pipeline.

    Raises:
        AtpatchError: ATP060 where options contradict each other.
    """

    key: PathLike | None = option(None, metavar="PEM")
    password: str | None = None
    certificate: PathLike | None = option(None, metavar="PEM")
    chain: PathLike | None = option(None, metavar="PEM")
    keyless: Keyless | None = option(None, choices=Keyless)

    def __post_init__(self) -> None:
        if (self.key is None) == (self.keyless is None):
            raise BAD_OPTION("a signature is made with a key or with an identity", "give --key or --keyless")
        if self.certificate is not None and self.key is None:
            raise BAD_OPTION("a certificate goes with its private key", "add --key")
        if self.chain is not None and self.certificate is None:
            raise BAD_OPTION("the chain vouches for a certificate", "add --certificate")
        if self.password is not None and self.certificate is not None:
            raise BAD_OPTION(
                "model-signing reads an encrypted key only where there is no certificate",
                "decrypt the key, and leave the password and ATPATCH_KEY_PASSWORD out",
            )


@dataclass(frozen=True, kw_only=True)
class VerifyOptions:
    """Whose signature is demanded. None: not given.

    Attributes:
        key: public key of the signer, a PEM file.
        chain: certificates that you trust, in one PEM file: whoever holds a certificate that they vouch for may have
            signed.
        identity: of a keyless signature: who must have signed, such as a mail address.
        identity_provider: of a keyless signature: URL of the provider that vouches for the identity.

    Raises:
        AtpatchError: ATP060 where options contradict each other.
    """

    key: PathLike | None = option(None, metavar="PEM")
    chain: PathLike | None = option(None, metavar="PEM")
    identity: str | None = None
    identity_provider: str | None = option(None, metavar="URL")

    def __post_init__(self) -> None:
        if (self.identity is None) != (self.identity_provider is None):
            raise BAD_OPTION("an identity and its provider go together", "give --identity and --identity-provider")
        if sum(one is not None for one in (self.key, self.chain, self.identity)) != 1:
            raise BAD_OPTION(
                "a signature is verified against one thing that you trust", "give --key, --chain or --identity"
            )
