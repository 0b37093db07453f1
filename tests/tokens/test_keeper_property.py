"""Whatever an authorization server does and however time passes, the keeper's promises hold."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import count, pairwise
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from proxy.oauth.registration import Registration
from proxy.oauth.response import Outcome, TokenGrant, TokenRequestError
from proxy.secret import FixedSecret, OverlappingSecrets, Secret, SecretSource
from proxy.tasks import Tasks
from proxy.tokens.access_token import AccessToken, CredentialName
from proxy.tokens.governor import MAX_CALLS
from proxy.tokens.keepers import Keepers
from proxy.tokens.lifetime import MIN_GRANT_INTERVAL_S, Backoff, RefreshPolicy
from proxy.tokens.source import CredentialSettings, Replacement, TokenSource, TokenUnavailable
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
    """Answers in turn, or as it stands; notes who asks and when, and how many ask at once."""

    clock: FakeClock
    answers: list[Answer]
    asked_at_s: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))  # by client
    lives: dict[str, float] = field(default_factory=dict)  # until when each token lives, by the strictest count
    running: list[str] = field(default_factory=list)
    most_parallel: int = 0
    numbers: count[int] = field(default_factory=count)

    async def request(self, registration: Registration) -> TokenGrant:
        client = registration.client_id
        registration.proof.read()
        asked_at_s = self.clock.now()
        self.asked_at_s[client].append(asked_at_s)
        assert client not in self.running, "two token requests of one credential"
        self.running.append(client)
        self.most_parallel = max(self.most_parallel, len(self.running))
        number = next(self.numbers)
        answer = self.answers[number % len(self.answers)]
        try:
            await self.clock.sleep(answer.takes_s)
        finally:
            self.running.remove(client)
        if answer.outcome is not Outcome.OK:
            status = {Outcome.RATE_LIMITED: 429, Outcome.SERVER_ERROR: 503}.get(answer.outcome, 400)
            raise TokenRequestError(answer.outcome, "scripted", status=status, retry_after_s=answer.retry_after_s)
        text = f"same-{client}" if answer.same_token else f"at-{number}"
        self.lives[text] = asked_at_s + (300.0 if answer.expires_in is None else answer.expires_in)
        return TokenGrant(access_token=Secret(text), expires_in=answer.expires_in)

    @property
    def all_asked_at_s(self) -> list[float]:
        """When anybody asked."""
        return sorted(at_s for times in self.asked_at_s.values() for at_s in times)


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
WHOSE = st.sampled_from([0.0, 1.0, 2.0])  # the number of a credential, taken by how many there are
CHANCE = st.sampled_from([0.0, 0.5, 0.999])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("advance"), st.sampled_from([0.0, 0.1, 0.9, 1.0, 5.0, 31.0, 250.0])),
        st.tuples(st.just("suspend"), st.sampled_from([1.0, 400.0, 1e6])),
        st.tuples(st.just("wall"), st.sampled_from([-3600.0, 40.0, 3600.0])),
        st.tuples(st.just("obtain"), WHOSE),
        st.tuples(st.just("cancel"), st.just(0.0)),
        st.tuples(st.just("replace"), WHOSE),
        st.tuples(st.just("current"), WHOSE),
    ),
    min_size=1,
    max_size=30,
)


def kept(
    server: AuthorizationServer, tasks: Tasks, how_many: int, chance: float, **members: Any
) -> tuple[Keepers, list[TokenSource]]:
    """Returns keepers for credentials of different clients at this server; the second has two secrets in overlap."""
    credentials = []
    for number in range(how_many):
        secret: SecretSource = FixedSecret(Secret("current"))
        if number == 1:
            secret = OverlappingSecrets((secret, FixedSecret(Secret("next"))))
        asks = registration(client_id=f"client-{number}", client_secret=secret)
        credentials.append(CredentialSettings(name=CredentialName(f"c{number}"), registration=asks, **members))
    keepers = Keepers(credentials, request=server.request, clock=server.clock, tasks=tasks, random=lambda: chance)
    return keepers, list(keepers.sources.values())


def spaced(server: AuthorizationServer) -> None:
    """Two requests of one credential are a second apart, and no more run at once than may."""
    for times in server.asked_at_s.values():
        assert all(later - earlier >= MIN_GRANT_INTERVAL_S - 1e-6 for earlier, later in pairwise(times)), times
    assert server.most_parallel <= MAX_CALLS


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(
    answers=ANSWERS,
    steps=STEPS,
    how_many=st.integers(1, 3),
    required=st.booleans(),
    chance=CHANCE,
    before_expiry_s=st.sampled_from([None, 5.0, 100.0]),
)
def test_any_server_and_any_course_of_time(answers, steps, how_many, required, chance, before_expiry_s):
    """No unusable token is given out, no two token requests run at once, and a second lies between any two."""
    members = {"refresh": RefreshPolicy(before_expiry_s=before_expiry_s), "backoff": Backoff(), "required": required}
    asyncio.run(_lived(answers, steps, how_many, chance, members))


async def _lived(
    answers: list[Answer], steps: list[tuple[str, float]], how_many: int, chance: float, members: dict[str, Any]
) -> None:
    clock, tasks = FakeClock(), Tasks()
    server = AuthorizationServer(clock, answers)
    keepers, sources = kept(server, tasks, how_many, chance, **members)
    keepers.start()
    waiters: list[asyncio.Task[AccessToken | None]] = []
    seen: dict[TokenSource, AccessToken] = {}

    def check() -> None:
        for source in sources:
            token = source.current()
            if token is not None:
                seen[source] = token
                _usable(token, server, clock)
                assert token.lifetime_s > 0
            source.status()
        spaced(server)

    for step, value in steps:
        source = sources[int(value) % how_many]
        match step:
            case "advance":
                await clock.advance(value)
            case "suspend":
                clock.suspend(value)
            case "wall":
                clock.jump_wall(value)
            case "obtain":
                waiters.append(tasks.start(_obtained(source, server, clock), name="waiter"))
                await settle()
            case "cancel" if waiters:
                waiters.pop().cancel()
                await settle()
            case "replace" if source in seen:
                source.replace(seen[source])
            case _:
                pass
        check()
    await keepers.stop()
    await asyncio.gather(*waiters, return_exceptions=True)
    for waiter in waiters:
        assert waiter.cancelled() or waiter.exception() is None
    await settle()
    assert not tasks._running
    assert not server.running


OUTAGE = [Outcome.CONNECT, Outcome.TIMEOUT, Outcome.TLS, Outcome.SERVER_ERROR]
REFUSALS = [Outcome.INVALID_CLIENT, Outcome.INVALID_SCOPE, Outcome.OAUTH_ERROR]


def failures(outcomes: list[Outcome]) -> st.SearchStrategy[list[Answer]]:
    """Makes answers that bring no token, some of them slow."""
    one = st.builds(Answer, takes_s=st.sampled_from([0.0, 0.0, 0.3, 2.0]), outcome=st.sampled_from(outcomes))
    return st.lists(one, min_size=1, max_size=5)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(
    answers=failures([*OUTAGE, Outcome.MALFORMED, Outcome.RATE_LIMITED]),
    how_many=st.integers(1, 9),
    chance=CHANCE,
    asks_every_s=st.sampled_from([0.25, 1.0, 7.0]),
)
def test_the_first_minute_of_any_outage(answers, how_many, chance, asks_every_s):
    """Thirty tries at most, all credentials together, however often their tokens are asked for."""

    async def lived() -> None:
        clock, tasks = FakeClock(), Tasks()
        server = AuthorizationServer(clock, answers)
        keepers, sources = kept(server, tasks, how_many, chance)
        keepers.start()
        for _ in range(int(60 / asks_every_s)):
            for source in sources:
                tasks.start(_obtained(source, server, clock), name="waiter")
            await clock.advance(asks_every_s)
        start_s = server.all_asked_at_s[0]
        assert len([at_s for at_s in server.all_asked_at_s if at_s < start_s + 60]) <= 30
        spaced(server)
        await keepers.stop()
        await settle()

    asyncio.run(lived())


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(
    answers=failures(OUTAGE),
    how_many=st.integers(1, 9),
    chance=CHANCE,
    lasts_s=st.sampled_from([0.5, 3.3, 17.0, 61.7, 700.0]),
    suspended_s=st.sampled_from([0.0, 0.0, 3600.0]),
)
def test_the_end_of_any_outage(answers, how_many, chance, lasts_s, suspended_s):
    """Every credential has its token within `max_without_token`, once what was under way has failed."""

    async def lived() -> None:
        clock, tasks = FakeClock(), Tasks()
        server = AuthorizationServer(clock, answers)
        keepers, sources = kept(server, tasks, how_many, chance)
        keepers.start()
        await clock.advance(lasts_s)
        clock.suspend(suspended_s)
        server.answers = [Answer(takes_s=0.0, outcome=Outcome.OK, expires_in=3600.0)]
        under_way_s = max(answer.takes_s for answer in answers)
        await clock.advance(under_way_s + Backoff().max_without_token_s + MIN_GRANT_INTERVAL_S)
        assert all(source.current() is not None for source in sources)
        spaced(server)
        await keepers.stop()
        await settle()

    asyncio.run(lived())


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@example(
    answers=[
        Answer(0.0, Outcome.INVALID_CLIENT),
        Answer(0.0, Outcome.INVALID_SCOPE),
        Answer(0.0, Outcome.INVALID_CLIENT),
    ],
    how_many=2,
    chance=0.0,
    asks_every_s=5.0,
)
@given(answers=failures(REFUSALS), how_many=st.integers(1, 4), chance=CHANCE, asks_every_s=st.sampled_from([0.5, 5.0]))
def test_any_refusals(answers, how_many, chance, asks_every_s):
    """Two tries of a credential in any minute, also where it has two secrets to try."""

    async def lived() -> None:
        clock, tasks = FakeClock(), Tasks()
        server = AuthorizationServer(clock, answers)
        keepers, sources = kept(server, tasks, how_many, chance)
        keepers.start()
        for _ in range(int(200 / asks_every_s)):
            for source in sources:
                tasks.start(_obtained(source, server, clock), name="waiter")
            await clock.advance(asks_every_s)
        for times in server.asked_at_s.values():
            assert all(third - first >= 60 - 1e-6 for first, third in zip(times, times[2:], strict=False)), times
        await keepers.stop()
        await settle()

    asyncio.run(lived())


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(
    answers=st.lists(
        st.builds(
            Answer,
            takes_s=st.sampled_from([0.0, 0.3]),
            outcome=st.sampled_from([Outcome.OK, Outcome.OK, Outcome.OK, Outcome.SERVER_ERROR]),
            expires_in=st.sampled_from([3600.0, 1e9]),
            same_token=st.booleans(),
        ),
        min_size=1,
        max_size=4,
    ),
    pauses_s=st.lists(st.sampled_from([0.1, 1.0, 4.0, 29.0]), min_size=5, max_size=60),
)
def test_an_upstream_that_refuses_every_token(answers, pauses_s):
    """Two forced renewals in any minute."""

    async def lived() -> None:
        clock, tasks = FakeClock(), Tasks()
        server = AuthorizationServer(clock, answers)
        keepers, (source,) = kept(server, tasks, 1, 0.5)
        keepers.start()
        forced_at_s: list[float] = []
        for pause_s in pauses_s:
            await clock.advance(pause_s)
            token = source.current()
            if token is not None and source.replace(token) is Replacement.STARTED:
                forced_at_s.append(clock.now())
        pairs = zip(forced_at_s, forced_at_s[2:], strict=False)
        assert all(third - first >= 60 - 1e-6 for first, third in pairs), forced_at_s
        await keepers.stop()
        await settle()

    asyncio.run(lived())


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
