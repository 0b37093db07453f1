"""Readiness as a value: what has to hold before this process should get requests, and whether it does.

Pure. A credential's readiness is sticky (``TokenStatus.ready``): an authorization server that dies later does not take
every replica out of service at once, while each still serves with the token it has. Liveness needs no check: a loop that
answers is alive.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from proxy.tokens.source import TokenStatus


@dataclass(frozen=True, slots=True)
class Check:
    """One condition of readiness."""

    name: str
    ok: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Readiness:
    """All conditions."""

    checks: tuple[Check, ...]

    @property
    def ready(self) -> bool:
        """Whether every condition holds."""
        return all(check.ok for check in self.checks)

    def text(self, *, verbose: bool) -> str:
        """Returns a line with the result, after one line for each check if verbose."""
        lines = [f"[{'+' if check.ok else '-'}] {check.name}: {check.detail}" for check in self.checks if verbose]
        return "\n".join([*lines, "ready" if self.ready else "not ready", ""])


def readiness(tokens: Iterable[TokenStatus], *, draining: bool) -> Readiness:
    """Returns the conditions: not draining, and a first token for every credential that is required."""
    checks = [Check("serving", not draining, "shutting down" if draining else "accepting requests")]
    for status in tokens:
        if not status.required:
            detail = "not required: asked for at first use"
        elif status.ready:
            detail = "had its first token"
        elif status.last_outcome is None:
            detail = "waits for its first token"
        else:
            detail = f"waits for its first token; last try: {status.last_outcome.value}"
        checks.append(Check(f"credential {status.name}", status.ready or not status.required, detail))
    return Readiness(tuple(checks))
