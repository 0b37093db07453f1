"""What an authorization server said: a token request's reply, read into a ``TokenGrant`` or a ``TokenRequestError``.

Lenient where servers differ and nothing is at stake (white space, BOM, content type, `expires_in` as text), strict where
the text is used further: an access token that is no b64token would let the authorization server write header fields.
Nothing of the reply but the grant itself leaves this module uncleaned, and nothing that quotes a secret leaves it at all.

Source: RFC 6749 §5.1, §5.2, §7.1; RFC 6750 §2.1 (b64token); RFC 9110 §10.2.3 (Retry-After).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Any
from urllib.parse import unquote, unquote_plus

from proxy.errors import ErrorType, GatewayError, Side
from proxy.secret import Secret
from proxy.units import KIB

MAX_TOKEN_CHARACTERS = 16 * KIB  # more does not fit into the header limits of common servers
_PART = 10  # characters in a row that count as repeating a secret
_LOOKED_AT = 4 * KIB  # characters of a text that are searched for parts
_MAX_DESCRIPTION = 200  # characters
_MAX_SCOPE = 4 * KIB  # characters
_DATE_RESOLUTION_S = 1.0  # of an HTTP-date
_B64TOKEN = re.compile(r"[A-Za-z0-9\-._~+/]+=*")
_ERROR_CODE = re.compile(r"[A-Za-z0-9_.:/-]{1,64}")  # of RFC 6749's %x20-21 / %x23-5B / %x5D-7E, what codes are made of
_NUMBER = re.compile(r"[+-]?[0-9]{1,20}(?:\.[0-9]{1,20})?")
_SECONDS = re.compile(r"[0-9]{1,10}")


class Outcome(StrEnum):
    """How a token request ended; the value is the metric's label."""

    OK = "ok"
    INVALID_CLIENT = "invalid_client"
    INVALID_SCOPE = "invalid_scope"
    OAUTH_ERROR = "oauth_error"  # any other refusal: unauthorized_client, invalid_target, a bare 403, …
    RATE_LIMITED = "rate_limited"
    SERVER_ERROR = "server_error"
    TIMEOUT = "timeout"
    CONNECT = "connect"
    TLS = "tls"
    MALFORMED = "malformed"

    @property
    def configuration_fault(self) -> bool:
        """Tells whether asking again mends nothing until somebody changes something."""
        return self in _CONFIGURATION_FAULTS

    @property
    def passing(self) -> bool:
        """Tells whether the network or the server was down: it may be back at any moment."""
        return self in _PASSING


class Stage(StrEnum):
    """How far a token request came before it failed."""

    CONFIGURATION = "configuration"  # a file of ours: nothing was sent
    DNS = "DNS"
    TCP = "TCP"
    TLS = "TLS"
    PROXY = "proxy"
    HTTP = "HTTP"  # no reply, or none that a token endpoint would give
    OAUTH = "OAuth"  # the authorization server refuses


_STAGES = {Outcome.CONNECT: Stage.TCP, Outcome.TLS: Stage.TLS}
_CONFIGURATION_FAULTS = frozenset({Outcome.INVALID_CLIENT, Outcome.INVALID_SCOPE, Outcome.OAUTH_ERROR})
_PASSING = frozenset({Outcome.SERVER_ERROR, Outcome.TIMEOUT, Outcome.CONNECT, Outcome.TLS})
_ERROR_TYPES = {
    Outcome.OK: ErrorType.PROXY_INTERNAL_ERROR,
    Outcome.INVALID_CLIENT: ErrorType.PROXY_CONFIGURATION_ERROR,
    Outcome.INVALID_SCOPE: ErrorType.PROXY_CONFIGURATION_ERROR,
    Outcome.OAUTH_ERROR: ErrorType.PROXY_CONFIGURATION_ERROR,
    Outcome.RATE_LIMITED: ErrorType.DESTINATION_UNAVAILABLE,
    Outcome.SERVER_ERROR: ErrorType.DESTINATION_UNAVAILABLE,
    Outcome.TIMEOUT: ErrorType.HTTP_RESPONSE_TIMEOUT,
    Outcome.CONNECT: ErrorType.DESTINATION_UNAVAILABLE,
    Outcome.TLS: ErrorType.TLS_PROTOCOL_ERROR,
    Outcome.MALFORMED: ErrorType.HTTP_PROTOCOL_ERROR,
}
_OUTCOMES_BY_CODE = {
    "invalid_client": Outcome.INVALID_CLIENT,
    "invalid_scope": Outcome.INVALID_SCOPE,
    "server_error": Outcome.SERVER_ERROR,
    "temporarily_unavailable": Outcome.SERVER_ERROR,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenGrant:
    """An access token as the authorization server gave it."""

    access_token: Secret
    token_type: str = "Bearer"  # noqa: S105  # a type, not a token
    expires_in: float | None  # whole seconds; zero or less: no life beyond this reply; None: not told, or not readable
    expires_in_warning: str | None = None  # why it was not readable
    scope: str | None = None  # as told; None where nothing was told, which means: as requested
    doubt: str | None = None  # what the published metadata says against the way the client proved itself
    clock_skew_s: float | None = None  # the reply's Date minus our wall clock

    @property
    def warning(self) -> str | None:
        """What an operator should know although the token is used, in one line; None if there is nothing."""
        return "; ".join(part for part in (self.expires_in_warning, self.doubt) if part) or None


class TokenRequestError(GatewayError):
    """A token request that brought no token. All texts are for operators; none holds a secret or a token."""

    def __init__(
        self,
        outcome: Outcome,
        reason: str,
        *,
        error_code: str | None = None,
        description: str | None = None,
        status: int | None = None,
        retry_after_s: float | None = None,
        hint: str | None = None,
        clock_skew_s: float | None = None,
        stage: Stage | None = None,
        error_type: ErrorType | None = None,
    ) -> None:
        super().__init__(
            error_type or _ERROR_TYPES[outcome], Side.AUTHORIZATION_SERVER, reason, retry_after_s=retry_after_s
        )
        self.outcome = outcome
        self.error_code = error_code  # the OAuth error code, if it was grammatical
        self.description = description  # error_description, cleaned and cut
        self.status = status
        self.hint = hint  # what to look at
        reached = Stage.OAUTH if outcome.configuration_fault else Stage.HTTP
        self.stage = stage or _STAGES.get(outcome, reached)
        self.clock_skew_s = clock_skew_s

    @property
    def of_the_client(self) -> bool:
        """Tells whether another secret may mend it; glewlwyd says no more to a wrong one than 403."""
        return self.outcome is Outcome.INVALID_CLIENT or (self.status == 403 and self.error_code is None)

    def explained(self) -> str:
        """Returns all that is known of the failure, in one line for operators."""
        return "; ".join(part for part in (self.detail, self.description, self.hint) if part)


def parse(
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    *,
    now_wall: float,
    round_trip_s: float = 0.0,
    hidden: Sequence[str] = (),
) -> TokenGrant:
    """Returns the grant that a token endpoint's reply holds.

    `round_trip_s` is how long the reply took. `hidden` are texts that the request carried and no error may quote.
    Raises TokenRequestError for all but a grant.
    """
    fields = {name.lower(): value for name, value in headers.items()}
    told_wall = _instant(fields.get("date", ""))
    skew_s = None if told_wall is None else clock_skew(told_wall, now_wall, round_trip_s)
    # A date is meant by the server's clock, which the reply tells as well.
    retry_after_s = _retry_after(fields.get("retry-after", ""), now_wall if told_wall is None else told_wall)

    def failure(
        outcome: Outcome,
        reason: str,
        *,
        code: str | None = None,
        description: str | None = None,
        hint: str | None = None,
        stage: Stage | None = None,
    ) -> TokenRequestError:
        return TokenRequestError(
            outcome,
            f"{reason} (HTTP {status})",
            error_code=code,
            description=description,
            status=status,
            retry_after_s=retry_after_s,
            hint=hint,
            clock_skew_s=skew_s,
            stage=stage,
        )

    if 300 <= status < 400:
        raise failure(
            Outcome.MALFORMED,
            "the token endpoint redirects",
            hint="redirects are never followed, they would carry the secret elsewhere: set token_endpoint to its final URL",
        )
    if status == 407:
        reason, hint = "the proxy demands authentication", "put user and password into proxy_url"
        raise failure(Outcome.CONNECT, reason, hint=hint, stage=Stage.PROXY)
    coding = fields.get("content-encoding", "").strip().lower()
    members = _members(body) if coding in {"", "identity"} else None
    code = _error_code(members, hidden)
    description = (
        None if members is None else _cleaned(members.get("error_description"), [*hidden, *_own_token(members)])
    )
    if status == 429:
        raise failure(Outcome.RATE_LIMITED, "too many token requests", code=code, description=description)
    if status >= 500:
        raise failure(Outcome.SERVER_ERROR, code or "the server failed", code=code, description=description)
    if status == 408:
        raise failure(Outcome.TIMEOUT, "the server gave up waiting for the request")
    if status in {404, 405, 410}:
        reason = "not a token endpoint's reply"
        raise failure(Outcome.MALFORMED, reason, code=code, description=description, hint="check token_endpoint's path")
    if code is not None:
        # A 401 speaks of the client whatever its code: some servers call a wrong secret unauthorized_client.
        other = Outcome.INVALID_CLIENT if status == 401 else Outcome.OAUTH_ERROR
        raise failure(_OUTCOMES_BY_CODE.get(code, other), code, code=code, description=description)
    if status == 401:
        raise failure(Outcome.INVALID_CLIENT, "client authentication was refused without an OAuth error code")
    if status == 403:
        raise failure(
            Outcome.OAUTH_ERROR,
            "refused without an OAuth error code",
            hint="some servers answer so to a wrong secret or scope; or something in front of the server refuses us",
        )
    if not 200 <= status < 300:
        raise failure(Outcome.MALFORMED, "not a token endpoint's reply", hint=_not_json_hint(fields, body))
    if members is None:
        if coding not in {"", "identity"}:
            raise failure(Outcome.MALFORMED, "the reply is compressed although that was not asked for")
        reason = "the reply is not a JSON object" if body else "the reply is empty"
        raise failure(Outcome.MALFORMED, reason, hint=_not_json_hint(fields, body))
    if members.get("error"):
        raise failure(Outcome.MALFORMED, "the reply holds an error that is no OAuth error code")
    try:
        return _grant(members, hidden, skew_s)
    except _NoGrantError as error:
        reason = str(error)
    raise failure(Outcome.MALFORMED, reason)


class _NoGrantError(Exception):
    """A member that makes the reply unusable; the text names it and quotes nothing."""


def _grant(members: dict[str, Any], hidden: Sequence[str], skew_s: float | None) -> TokenGrant:
    token = members.get("access_token")
    if not isinstance(token, str) or not token:
        raise _NoGrantError("the reply has no access_token")
    if (fault := token_fault(token)) is not None:
        raise _NoGrantError(f"the access token {fault}")
    # Some servers leave it out although RFC 6749 §5.1 requires it; that says nothing against Bearer, another type does.
    token_type = members.get("token_type") or "bearer"
    if not isinstance(token_type, str) or token_type.strip().lower() != "bearer":
        raise _NoGrantError("token_type is not Bearer: the token must not be used (RFC 6749, 7.1)")
    expires_in, warning = _expires_in(members.get("expires_in"))
    scope = members.get("scope")
    if isinstance(scope, list) and all(isinstance(part, str) for part in scope):
        scope = " ".join(scope)
    return TokenGrant(
        access_token=Secret(token),
        expires_in=expires_in,
        expires_in_warning=warning,
        scope=_scope(scope, [*hidden, token]),
        clock_skew_s=skew_s,
    )


def _scope(value: object, hidden: Sequence[str]) -> str | None:
    """Returns the scope as told; None where none was told, or one that is better not repeated."""
    if isinstance(value, str) and _quotes(value, hidden):
        return None
    return _cleaned(value, (), limit=_MAX_SCOPE)


def token_fault(token: str) -> str | None:
    """Returns why an access token may not be put into a field (RFC 6750 §2.1), None if it may."""
    if len(token) > MAX_TOKEN_CHARACTERS:
        return f"is longer than {MAX_TOKEN_CHARACTERS} characters"
    if _B64TOKEN.fullmatch(token) is None:
        return "has characters that RFC 6750 allows in no Authorization field"
    return None


def _expires_in(value: object) -> tuple[float | None, str | None]:
    """Returns whole seconds, or None and why; what servers send instead of a number is read where its sense is plain."""
    if value is None:
        return None, None
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None, "expires_in is not a number"
    if isinstance(value, str):
        text = value.strip()
        if _NUMBER.fullmatch(text) is None:
            return None, "expires_in is a text that is no number"
        value = float(text)
    try:
        seconds = float(value)
    except OverflowError:  # an integer beyond all floats
        return (math.inf if value > 0 else 0.0), None
    if math.isnan(seconds) or math.isinf(seconds):
        return None, "expires_in is not a finite number"
    return float(math.floor(seconds)), None


def _members(body: bytes) -> dict[str, Any] | None:
    """Returns the members of the JSON object, or None if it is none; tolerates a BOM and UTF-16, UTF-32 or Latin-1."""
    try:
        try:
            value = json.loads(body)
        except UnicodeDecodeError:
            value = json.loads(body.decode("latin-1"))
    except (ValueError, RecursionError):  # ValueError: also an integer of thousands of digits
        return None
    return value if isinstance(value, dict) else None


def _error_code(members: dict[str, Any] | None, hidden: Sequence[str]) -> str | None:
    code = None if members is None else members.get("error")
    if not isinstance(code, str) or _ERROR_CODE.fullmatch(code) is None or _quotes(code, hidden):
        return None
    return code


def _own_token(members: dict[str, Any]) -> list[str]:
    """Returns the tokens that a reply holds beside its error, so that its description cannot tell them either."""
    return [value for name, value in members.items() if name.endswith("token") and isinstance(value, str)]


def _cleaned(value: object, hidden: Sequence[str], *, limit: int = _MAX_DESCRIPTION) -> str | None:
    """Returns a text fit for a log line: printable, bounded, and None if it is no text or quotes what is hidden."""
    if not isinstance(value, str) or not value.strip():
        return None
    if _quotes(value, hidden):
        return "(withheld: it quotes a secret)"
    text = "".join(character if character.isprintable() else " " for character in value[: 4 * limit])
    text = " ".join(text.split())
    if not text:
        return None
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _quotes(text: str, hidden: Sequence[str]) -> bool:
    """Tells whether a text repeats what is hidden, or a part of it, however it is percent-encoded and in any case.

    A server may cut what it repeats, escape it, or encode it in a way of its own: a few characters in a row tell enough.
    """
    if any(part and part in text for part in hidden):
        return True
    shapes = {shape[:_LOOKED_AT].casefold() for shape in (text, unquote(text), unquote_plus(text))}
    for part in hidden:
        sought = part.casefold()
        if not sought:
            continue
        if len(sought) <= _PART:
            if any(sought in shape for shape in shapes):
                return True
        elif any(shape[at : at + _PART] in sought for shape in shapes for at in range(len(shape) - _PART + 1)):
            return True
    return False


def _not_json_hint(fields: Mapping[str, str], body: bytes) -> str | None:
    if "html" in fields.get("content-type", "").lower() or body.lstrip()[:1] == b"<":
        return "the reply is a web page: this is probably not the token endpoint"
    return None


def clock_skew(told_wall: float, now_wall: float, round_trip_s: float) -> float:
    """Returns how many seconds the server's clock is ahead of ours; zero where its reply can be explained without that.

    The reply's Date, whole seconds, was written somewhere in the round trip that has just ended: it is compared with
    the middle of it.
    """
    skew_s = told_wall - (now_wall - round_trip_s / 2)
    return 0.0 if abs(skew_s) <= _DATE_RESOLUTION_S + round_trip_s / 2 else skew_s


def _retry_after(text: str, now_wall: float) -> float | None:
    """Returns the seconds to wait, from seconds or an HTTP-date; None if there is none or it cannot be read."""
    text = text.strip()
    if _SECONDS.fullmatch(text):
        return float(text)
    moment = _instant(text)
    return None if moment is None else max(moment - now_wall, 0.0)


def _instant(http_date: str) -> float | None:
    """Returns an HTTP-date as Unix time; None if there is none or it cannot be read."""
    try:
        moment = parsedate_to_datetime(http_date)
        return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError, TypeError, IndexError):
        return None
