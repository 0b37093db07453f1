"""A client's own token in the query: beside ours it would make two ways of sending a token, which RFC 6750 §2 forbids.

Source: RFC 6750 §2.3 (the parameter `access_token`, and why not to use it).
"""

from __future__ import annotations

from urllib.parse import unquote_to_bytes

_NAME = b"access_token"


def without_token(query: bytes) -> bytes:
    """Returns the query without any `access_token`, however it is percent-encoded; the query itself if it has none."""
    if _NAME not in query and b"%" not in query:
        return query
    parts = query.split(b"&")
    kept = [part for part in parts if unquote_to_bytes(part.partition(b"=")[0]) != _NAME]
    return query if len(kept) == len(parts) else b"&".join(kept)
