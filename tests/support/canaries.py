"""Looks for secrets where none may be: a canary is a made-up secret, a trace is any shape of it, or of a part of it.

Shapes: as it is, in another case, percent-encoded or form-encoded, as an escaped text of JSON or Python, in hexadecimal,
in Base64 of either alphabet at any offset (so also within ``Basic`` credentials), and any ten characters in a row of
these. What is searched is octets of any encoding that keeps ASCII.
"""

from __future__ import annotations

import binascii
import json
import re
from base64 import b64decode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import quote, quote_plus

PART = 10  # characters in a row that make a trace

_BASE64 = re.compile(rb"[A-Za-z0-9+/_-]{12,}")
_URL_SAFE = bytes.maketrans(b"-_", b"+/")


@dataclass(frozen=True)
class Canary:
    """A secret to be looked for. Its text is random enough for no part of it to occur by chance."""

    name: str
    text: str


def traces(canaries: Iterable[Canary], places: Mapping[str, bytes]) -> list[str]:
    """Returns which canaries left a trace, and where: `client secret in stderr`. An empty list is good news."""
    parts = {canary.name: _parts(canary.text) for canary in canaries}
    found: list[str] = []
    for place, octets in places.items():
        searched = b"\0".join([octets, *_decoded(octets)]).lower()  # in one piece, which is quicker
        found.extend(f"{name} in {place}" for name, sought in parts.items() if any(part in searched for part in sought))
    return found


def _parts(text: str) -> set[bytes]:
    """Returns the parts of every shape of a text, in lower case."""
    shapes = {
        text.encode(),
        quote(text, safe="").encode(),
        quote_plus(text).encode(),
        json.dumps(text)[1:-1].encode(),
        repr(text)[1:-1].encode(),
        repr(text.encode())[2:-1].encode(),
        binascii.hexlify(text.encode()),
    }
    return {shape[at : at + PART].lower() for shape in shapes for at in range(len(shape) - PART + 1)}


def _decoded(octets: bytes) -> Iterable[bytes]:
    """Yields what every run of Base64 characters stands for, from each of the four offsets it may begin at."""
    for match in _BASE64.finditer(octets):
        run = match[0].translate(_URL_SAFE)
        for offset in range(4):
            piece = run[offset:]
            piece = piece[: len(piece) - len(piece) % 4]
            yield b64decode(piece)
