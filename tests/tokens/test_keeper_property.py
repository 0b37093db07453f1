"""Whatever an authorization server does and however time passes, the keeper's promises hold."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.oauth.registration import Registration
from proxy.oauth.response import Outcome, TokenGrant, TokenRequestError
from proxy.secret import Secret
from proxy.tasks import Tasks
from proxy.tokens.access_token import AccessToken, CredentialName
from proxy.tokens.keepers import Keepers
from proxy.tokens.lifetime import MIN_GRANT_INTERVAL_S, Backoff, RefreshPolicy
from proxy.tokens.source import CredentialSettings, TokenSource, TokenUnavailable
from tests.oauth.registrations import registration
from tests.support.fake_clock import FakeClock, settle


@dataclass(frozen=True)
class Answer:
    """How one token request ends, and how long it takes."""

    takes_s: float
    outcome: Outcome
    expires_in: float | None = None
    retry_after_s: float | None = None
    same_token: bool = False


@dataclass
class AuthorizationServer:
    """Answers in turn; notes when it is asked, and how many ask at once."""

    clock: FakeClock
    answers: list[Answer]
    asked_at_s: list[float] = field(default_factory=list)
    lives: dict[str, float] = field(default_factory=dict)  # until when each token lives, by the strictest count
    parallel: int = 0
    most_parallel: int = 0

    async def request(self, _registration: Registration) -> TokenGrant:
        self.asked_at_s.append(self.clock.now())
        self.parallel += 1
        self.most_parallel = max(self.most_parallel, self.parallel)
        number = len(self.asked_at_s)
        answer = self.answers[(number - 1) % len(self.answers)]
        try:
            await self.clock.sleep(answer.takes_s)
        finally:
            self.parallel -= 1
        if answer.outcome is not Outcome.OK:
            raise TokenRequestError(answer.outcome, "scripted", retry_after_s=answer.retry_after_s)
        text = "same" if answer.same_token else f"at-{number}"
        self.lives[text] = self.asked_at_s[-1] + (300.0 if answer.expires_in is None else answer.expires_in)
        return TokenGrant(access_token=Secret(text), expires_in=answer.expires_in)


ANSWERS = st.lists(
    st.builds(
        Answer,
        takes_s=st.sampled_from([0.0, 0.0, 0.3, 2.0, 40.0]),
        outcome=st.sampled_from([Outcome.OK, Outcome.OK, Outcome.OK, *Outcome]),
        expires_in=st.sampled_from([None, -1.0, 0.0, 1.0, 3.0, 30.0, 600.0, 1e12]),
        retry_after_s=st.sampled_from([None, None, 0.0, 7.0, 900.0]),
        same_token=st.booleans(),
    ),
    min_size=1,
    max_size=8,
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("advance"), st.sampled_from([0.0, 0.1, 0.9, 1.0, 5.0, 31.0, 250.0])),
        st.tuples(st.just("suspend"), st.sampled_from([1.0, 400.0, 1e6])),
        st.tuples(st.just("wall"), st.sampled_from([-3600.0, 40.0])),
        st.tuples(st.just("obtain"), st.just(0.0)),
        st.tuples(st.just("cancel"), st.just(0.0)),
        st.tuples(st.just("replace"), st.just(0.0)),
        st.tuples(st.just("current"), st.just(0.0)),
    ),
    min_size=1,
    max_size=30,
)


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(
    answers=ANSWERS,
    steps=STEPS,
    required=st.booleans(),
    chance=st.sampled_from([0.0, 0.5, 0.999]),
    before_expiry_s=st.sampled_from([None, 5.0, 100.0]),
)
def test_any_server_and_any_course_of_time(answers, steps, required, chance, before_expiry_s):
    """No unusable token is given out, no two token requests run at once, and a second lies between any two."""
    asyncio.run(_lived(answers, steps, required=required, chance=chance, before_expiry_s=before_expiry_s))


async def _lived(
    answers: list[Answer],
    steps: list[tuple[str, float]],
    *,
    required: bool,
    chance: float,
    before_expiry_s: float | None,
) -> None:
    clock, tasks = FakeClock(), Tasks()
    server = AuthorizationServer(clock, answers)
    credential = CredentialSettings(
        name=CredentialName("orders"),
        registration=registration(),
        refresh=RefreshPolicy(before_expiry_s=before_expiry_s),
        backoff=Backoff(),
        required=required,
    )
    keepers = Keepers([credential], request=server.request, clock=clock, tasks=tasks, random=lambda: chance)
    source = keepers.sources[CredentialName("orders")]
    keepers.start()
    waiters: list[asyncio.Task[AccessToken | None]] = []
    seen: list[AccessToken] = []

    def check() -> None:
        token = source.current()
        if token is not None:
            seen.append(token)
            _usable(token, server, clock)
            assert token.lifetime_s > 0
        assert server.most_parallel <= 1
        gaps = [later - earlier for earlier, later in zip(server.asked_at_s, server.asked_at_s[1:], strict=False)]
        assert all(gap >= MIN_GRANT_INTERVAL_S - 1e-6 for gap in gaps), gaps
        source.status()

    for step, seconds in steps:
        match step:
            case "advance":
                await clock.advance(seconds)
            case "suspend":
                clock.suspend(seconds)
            case "wall":
                clock.jump_wall(seconds)
            case "obtain":
                waiters.append(tasks.start(_obtained(source, server, clock), name="waiter"))
                await settle()
            case "cancel" if waiters:
                waiters.pop().cancel()
                await settle()
            case "replace" if seen:
                source.replace(seen[-1])
            case _:
                pass
        check()
    await keepers.stop()
    await asyncio.gather(*waiters, return_exceptions=True)
    for waiter in waiters:
        assert waiter.cancelled() or waiter.exception() is None
    await settle()
    assert not tasks._running
    assert server.parallel == 0


async def _obtained(source: TokenSource, server: AuthorizationServer, clock: FakeClock) -> AccessToken | None:
    """Waits for a token; it is usable, or the failure says when to come again."""
    failure: TokenUnavailable | None = None
    token: AccessToken | None = None
    try:
        token = await source.obtain(1e6)
    except TokenUnavailable as unavailable:
        failure = unavailable
    if failure is not None:
        assert failure.retry_after_s is not None
        assert 1 <= failure.retry_after_s <= 300
    if token is not None:
        _usable(token, server, clock)
    return token


def _usable(token: AccessToken, server: AuthorizationServer, clock: FakeClock) -> None:
    assert token.usable(clock.now())
    assert token.lifetime_s == 0 or clock.now() < server.lives[token.field_value.decode().removeprefix("Bearer ")]
