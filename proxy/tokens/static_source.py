"""A token that somebody else keeps in a file: the ``TokenSource`` of a credential for which nobody is asked.

The file is looked at once a second at most, and read again when it changed, or when the upstream refused its token. A file
that becomes unreadable, or comes to hold what is no token, changes nothing: the former token stays in use. When the token
ends is not known, so it counts as fresh for as long as it is there.

Source: RFC 6750 §2.1 (b64token).
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, field

from proxy.clock import Clock
from proxy.errors import ConfigurationError, ErrorType
from proxy.oauth.response import Outcome, Stage, TokenRequestError, token_fault
from proxy.secret import Secret, SecretFile
from proxy.tokens.access_token import AccessToken, CredentialName, TokenState
from proxy.tokens.source import Durations, Lookups, Replacement, TokenStatus, TokenUnavailable
from proxy.units import SECONDS

_log = logging.getLogger("proxy.tokens")

LOOKED_AT_EVERY_S = 1 * SECONDS
_RETRY_AFTER_S = 5 * SECONDS  # what a client is told to wait: whoever writes the file is not known to us


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticCredential:
    """A credential whose token is in a file."""

    name: CredentialName
    access_token: SecretFile = field(repr=False)
    required: bool = True  # readiness waits for it


def read_token(credential: StaticCredential) -> Secret:
    """Returns the token that the file holds now. Raises TokenRequestError if there is none that may be used."""
    try:
        token = SecretFile(credential.access_token.path).read()  # a new one, which looks whatever the file's date says
        fault = token_fault(token.reveal())
        reason = None if fault is None else f"access_token_file: the file's text {fault}"
    except ConfigurationError as error:
        reason = f"access_token_file: {error}"
    if reason is not None:
        raise TokenRequestError(
            Outcome.MALFORMED,
            reason,
            hint="the file holds the token alone; it is looked at again every second",
            stage=Stage.CONFIGURATION,
        )
    return token


class StaticSource:
    """The token of one credential, read from its file. Used on one event loop."""

    __slots__ = (
        "_clock",
        "_credential",
        "_error",
        "_failed",
        "_failures",
        "_generation",
        "_look_again_at_s",
        "_ready",
        "_seen",
        "_token",
    )

    def __init__(self, credential: StaticCredential, *, clock: Clock) -> None:
        self._credential = credential
        self._clock = clock
        self._token: AccessToken | None = None
        self._generation = 0
        self._look_again_at_s = -math.inf
        self._seen: Secret | None = None  # what the file held when it was last looked at
        self._error: TokenRequestError | None = None
        self._failures = 0
        self._ready = 0
        self._failed = 0

    @property
    def name(self) -> CredentialName:
        """The credential's name."""
        return self._credential.name

    @property
    def required(self) -> bool:
        """Whether readiness waits for its first token."""
        return self._credential.required

    @property
    def ready(self) -> bool:
        """Whether it had its first token; sticky. Looks, where it had none."""
        return self._generation > 0 or self._looked(self._clock.now()) is not None

    def current(self) -> AccessToken | None:
        """Returns the token if the file holds one; see ``TokenSource.current``."""
        token = self._looked(self._clock.now())
        if token is not None:
            self._ready += 1
        return token

    async def obtain(self, timeout_s: float) -> AccessToken:  # noqa: ARG002  # nothing is waited for
        """Returns the token; see ``TokenSource.obtain``. Raises TokenUnavailable at once if there is none."""
        token = self.current()
        if token is None:
            self._failed += 1
            detail = "no token in its file" if self._error is None else self._error.explained()
            raise TokenUnavailable(
                detail,
                outcome=Outcome.MALFORMED,
                retry_after_s=_RETRY_AFTER_S,
                error_type=ErrorType.PROXY_CONFIGURATION_ERROR,
            )
        return token

    def replace(self, rejected: AccessToken) -> Replacement:
        """Tells that the upstream refused this token: the file is read again, whatever its date says."""
        if rejected.generation == self._generation:
            self._read(self._clock.now())
        return Replacement.SUPPRESSED if rejected.generation == self._generation else Replacement.STARTED

    def status(self) -> TokenStatus:
        """Returns the credential's facts at this moment."""
        now_s = self._clock.now()
        token = self._looked(now_s)
        return TokenStatus(
            name=self.name,
            required=self.required,
            ready=self._generation > 0,
            state=TokenState.NONE if token is None else TokenState.FRESH,
            scope=None,
            scope_missing=(),
            lifetime_s=None,
            obtained_ago_s=None if token is None else now_s - token.obtained_at_s,
            usable_for_s=None,
            expires_at_wall_s=None,
            next_refresh_at_wall_s=None,
            next_try_in_s=None,
            consecutive_failures=self._failures,
            last_outcome=Outcome.MALFORMED if self._error is not None else Outcome.OK,
            last_error=None if self._error is None else self._error.explained(),
            clock_skew_s=None,
            client_secrets=0,
            client_secret_in_use=None,
            lookups=Lookups(ready=self._ready, waited=0, failed=self._failed),
            requests=dict.fromkeys(Outcome, 0),
            durations=Durations(),
            shares_with=None,
            endless=True,
        )

    def _looked(self, now_s: float) -> AccessToken | None:
        """Returns the token, after a look at the file if the last is a second ago."""
        if now_s >= self._look_again_at_s:
            self._look_again_at_s = now_s + LOOKED_AT_EVERY_S
            self._read(now_s)
        return self._token

    def _read(self, now_s: float) -> None:
        try:
            text = read_token(self._credential)
        except TokenRequestError as error:
            if self._error is None or self._error.detail != error.detail:
                _write(logging.WARNING, "access token file cannot be used", self.name, error.explained())
            self._error = error
            self._failures += 1
            return
        self._error, self._failures = None, 0
        if self._token is not None and text == self._seen:
            return
        self._seen = text
        self._generation += 1
        self._token = AccessToken(
            field_value=f"Bearer {text.reveal()}".encode("ascii"),
            generation=self._generation,
            obtained_at_s=now_s,
            due_at_s=math.inf,
            usable_until_s=math.inf,
            expires_at_s=math.inf,
            lifetime_s=math.inf,
            scope=None,
        )
        _write(logging.INFO, "access token read from its file", self.name, None)


def _write(level: int, message: str, name: CredentialName, reason: str | None) -> None:
    fields: dict[str, object] = {"credential": name}
    if reason is not None:
        fields["reason"] = reason
    _log.log(level, message, extra={"fields": fields})
