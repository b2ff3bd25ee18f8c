"""JWTs (RFC 7519): whether one is good, and what it says about its bearer."""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import orjson

from assay.auth.issuer import Issuer
from assay.auth.keys import ALGORITHMS, Key
from assay.errors import Unauthorized

#: by how much the clocks of issuer and engine may differ
LEEWAY_SECS = 60.0
#: claims that can name the bearer, the first one that is there wins
NAMES = ("email", "preferred_username", "sub")
LONGEST_NAME = 255
_BASE64URL = re.compile(r"[A-Za-z0-9_-]+")

Claims = dict[str, Any]


class TokenVerifier:
    """Checks the tokens of one issuer, for one audience where one is given; ``now`` tells the time in epoch seconds."""

    def __init__(self, issuer: str, audience: str | None, now: Callable[[], float]) -> None:
        self.issuer = Issuer(issuer, now)
        self._audience = audience
        self._now = now

    def verify(self, token: str, header: Claims) -> Claims:
        """The claims of a good token; ``header`` is its decoded header.

        Raises Unauthorized naming the check that failed, NotReady as long as the issuer's keys are not known.
        """
        claims = _claims(self._payload(token, header))
        self._check_times(claims)
        self._check_issuer(claims)
        if self._audience is not None:
            self._check_audience(claims, self._audience)
        return claims

    def _payload(self, token: str, header: Claims) -> bytes:
        """What was signed, after the signature was checked."""
        algorithm, kid = header["alg"], header.get("kid")
        if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
            raise Unauthorized(f"the algorithm of this JWT is not accepted; use one of {', '.join(ALGORITHMS)}")
        if "crit" in header:
            raise Unauthorized("this JWT needs extensions (crit) that this engine does not have")
        if not (kid is None or isinstance(kid, str)):
            raise Unauthorized("the key id (kid) of this JWT is not a text")
        known = self.issuer.keys_for(kid)
        payload = _signed_by(known, token, algorithm)
        if payload is None and kid is None:
            # An issuer without key ids may have changed its key; nothing else would tell.
            self.issuer.look_again("no known key has signed a token without key id")
            known = self.issuer.keys_for(kid)
            payload = _signed_by(known, token, algorithm)
        if payload is not None:
            return payload
        if not known:
            raise Unauthorized("this JWT was signed with a key that its issuer does not publish (unknown kid)")
        if not any(key.fits(algorithm) for key in known):
            raise Unauthorized("no key of the issuer is for the algorithm of this JWT")
        raise Unauthorized("the signature of this JWT is wrong")

    def _check_times(self, claims: Claims) -> None:
        now = self._now()
        if "exp" not in claims:
            raise Unauthorized("this JWT does not say when it expires (exp)")
        if now >= _moment(claims, "exp") + LEEWAY_SECS:
            raise Unauthorized("this JWT has expired; get a new one")
        if "nbf" in claims and now < _moment(claims, "nbf") - LEEWAY_SECS:
            raise Unauthorized("this JWT is not valid yet (nbf)")

    def _check_issuer(self, claims: Claims) -> None:
        issuer = claims.get("iss")
        if issuer is None:
            raise Unauthorized("this JWT does not say who issued it (iss)")
        if not isinstance(issuer, str) or issuer not in self.issuer.names:
            raise Unauthorized("this JWT was issued by somebody else (iss)")

    @staticmethod
    def _check_audience(claims: Claims, audience: str) -> None:
        named = claims.get("aud")
        if named is None:
            raise Unauthorized("this JWT does not say whom it is for (aud)")
        if not (named == audience or (isinstance(named, list) and audience in named)):
            raise Unauthorized("this JWT is for somebody else (aud)")


def header_of(token: str) -> Claims | None:
    """The header of a JWS in compact form; None when the token is none, whatever follows its first dot."""
    parts = token.split(".")
    if len(parts) != 3 or not _BASE64URL.fullmatch(parts[0]):
        return None
    try:
        header = orjson.loads(base64.urlsafe_b64decode(parts[0] + "=" * (-len(parts[0]) % 4)))
    except (binascii.Error, orjson.JSONDecodeError):
        return None
    return header if isinstance(header, dict) and "alg" in header else None


def principal(claims: Claims) -> str:
    """A name for the bearer of a token."""
    for claim in NAMES:
        name = claims.get(claim)
        if isinstance(name, str) and name.strip():
            return name.replace("\x00", "\ufffd")[:LONGEST_NAME]
    return "unnamed"


def ends_at(claims: Claims) -> float:
    """When the token stops being accepted (epoch seconds)."""
    return _moment(claims, "exp") + LEEWAY_SECS


def _signed_by(keys: Sequence[Key], token: str, algorithm: str) -> bytes | None:
    """What a token says, when one of the keys that fit has signed it."""
    for key in keys:
        if key.fits(algorithm):
            payload = key.signed(token, algorithm)
            if payload is not None:
                return payload
    return None


def _claims(payload: bytes) -> Claims:
    try:
        claims = orjson.loads(payload)
    except orjson.JSONDecodeError:
        claims = None
    if not isinstance(claims, dict):
        raise Unauthorized("the claims of this JWT are not a JSON object")
    return claims


def _moment(claims: Claims, name: str) -> float:
    value = claims[name]
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise Unauthorized(f"a time in this JWT is not a number ({name})")
    return float(value)
