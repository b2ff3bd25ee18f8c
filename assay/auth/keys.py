"""Public keys of an issuer (RFC 7517), and which signature (RFC 7518, RFC 8037) each may have made."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from jwt import InvalidTokenError, PyJWK, PyJWTError
from jwt.api_jws import PyJWS

from assay import logs

log = logs.get("assay.auth")

#: algorithm -> the type of its keys, and their curves where there are any. HMAC and ``none`` are not here: whoever
#: knows the public keys could forge those.
ALGORITHMS: dict[str, tuple[str, frozenset[str]]] = {
    **{name + size: ("RSA", frozenset()) for name in ("RS", "PS") for size in ("256", "384", "512")},
    "ES256": ("EC", frozenset({"P-256"})),
    "ES384": ("EC", frozenset({"P-384"})),
    "ES512": ("EC", frozenset({"P-521"})),
    "EdDSA": ("OKP", frozenset({"Ed25519", "Ed448"})),
}
#: what makes up a public key; whatever else a set holds is not read, private parts first of all
_PUBLIC = ("kty", "crv", "n", "e", "x", "y")
_CURVES = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512", "Ed25519": "EdDSA", "Ed448": "EdDSA"}

_jws = PyJWS(algorithms=list(ALGORITHMS))


@dataclass(frozen=True)
class Key:
    """One public key."""

    kid: str | None
    kind: str
    curve: str | None
    #: the one algorithm that it is for, None for any that fits
    algorithm: str | None
    public: Any

    def fits(self, algorithm: str) -> bool:
        """Whether this key can have made signatures of ``algorithm``."""
        kind, curves = ALGORITHMS[algorithm]
        if self.kind != kind or (curves and self.curve not in curves):
            return False
        return self.algorithm in (None, algorithm)

    def signed(self, token: str, algorithm: str) -> bytes | None:
        """The payload of a token that this key signed, None for any other token."""
        try:
            payload: bytes = _jws.decode_complete(token, self.public, algorithms=[algorithm])["payload"]
        except (InvalidTokenError, PyJWTError, ValueError, TypeError):
            return None
        return payload


def read(members: Iterable[Any]) -> tuple[Key, ...]:
    """The keys that can check signatures, out of the ``keys`` of a JWK set; others are skipped."""
    found = []
    for number, member in enumerate(members, 1):
        try:
            key = _read_one(member)
        except (PyJWTError, ValueError, TypeError, KeyError, AttributeError) as error:
            log.warning("a key of the issuer cannot be read and is skipped", number=number, cause=type(error).__name__)
            continue
        if key is not None:
            found.append(key)
    return tuple(found)


def _read_one(member: dict[str, Any]) -> Key | None:
    """A key, None for one that is not for checking signatures."""
    kind, curve, algorithm, kid = (member.get(name) for name in ("kty", "crv", "alg", "kid"))
    operations = member.get("key_ops")
    if member.get("use", "sig") != "sig" or (operations is not None and "verify" not in operations):
        return None
    if algorithm is not None and algorithm not in ALGORITHMS:
        return None
    reader = "RS256" if kind == "RSA" else _CURVES.get(str(curve))
    if reader is None or ALGORITHMS[reader][0] != kind:
        return None
    if not (kid is None or isinstance(kid, str)):
        raise ValueError("kid")
    public = {name: member[name] for name in _PUBLIC if name in member}
    return Key(kid, kind, curve, algorithm, PyJWK(public, algorithm=reader).key)
