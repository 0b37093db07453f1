"""RFC 7523, 7521 and rfc7523bis: client assertions; statements 37 to 44. RFC 8707: resource indicators; 48 and 49."""

from __future__ import annotations

import json
import logging
from base64 import urlsafe_b64decode, urlsafe_b64encode
from pathlib import Path
from typing import Any

import pytest
from joserfc import jwk, jws

from proxy.clock import SystemClock
from proxy.oauth.assertion import BACKDATED_S
from proxy.oauth.registration import AssertionSettings, ClientAuthMethod, identity
from proxy.oauth.response import Outcome, Stage, TokenRequestError
from proxy.secret import SecretFile
from tests.config.test_proofs import BY_KEY, BY_SECRET_JWT, credential
from tests.config.written import faults, with_credential
from tests.oauth.registrations import SECRET, private_key, registration
from tests.support.fake_clock import until
from tests.support.scripted_authorization_server import RecordedRequest, error_reply, json_reply
from tests.tokens.kept import WAIT_S, kept, settings

BY_ASSERTION = [ClientAuthMethod.CLIENT_SECRET_JWT, ClientAuthMethod.PRIVATE_KEY_JWT]
KEY = ClientAuthMethod.PRIVATE_KEY_JWT


def part(text: str, index: int) -> dict[str, Any]:
    piece = text.split(".")[index]
    return json.loads(urlsafe_b64decode(piece + "=" * (-len(piece) % 4)))


def assertion_of(request: RecordedRequest) -> str:
    (text,) = [value for name, value in request.form if name == "client_assertion"]
    return text


async def sent(server, client, **members) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns header and claims of the assertion that a token request brought."""
    await client.request(registration(server.url, **{"method": KEY, **members}))
    text = assertion_of(server.requests[-1])
    return part(text, 0), part(text, 1)


@pytest.mark.parametrize("method", BY_ASSERTION, ids=lambda method: f"P37-{method}")
async def test_an_assertion_and_nothing_beside_it(server, client, method):
    """§2.2: its type, exactly one JWT, no secret."""
    await client.request(registration(server.url, method=method))
    (request,) = server.requests
    form = dict(request.form)
    assert form["client_assertion_type"] == "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
    assert len(form["client_assertion"].split(".")) == 3
    assert "client_secret" not in form
    assert request.values("authorization") == []


async def test_P38_its_claims(server, client):
    """§3: issuer and subject are the client, the audience is the server, an end, and an id."""
    _, claims = await sent(server, client)
    assert claims["iss"] == claims["sub"] == "legacy-app"
    assert claims["aud"] == server.url
    assert set(claims) == {"iss", "sub", "aud", "iat", "exp", "jti"}
    assert len(claims["jti"]) >= 22


async def test_P39_a_new_one_for_each_attempt(server):
    """Retries included: no id comes twice."""
    server.default = json_reply(503)
    asked = settings(server, asks={"method": KEY}, required=True)
    async with kept(server, asked) as running:
        running.keepers.start()
        await until(lambda: len(server.requests) >= 1)
        for _ in range(3):
            seen = len(server.requests)
            await until(running.nothing_under_way)
            await running.clock.advance(10)
            await until(lambda: len(server.requests) > seen)  # noqa: B023
        await until(running.nothing_under_way)
    ids = [part(assertion_of(request), 1)["jti"] for request in server.requests]
    assert len(set(ids)) == len(ids) >= 4


async def test_P40_its_audience(server, client):
    """The issuer where it is known, as one text; else the token endpoint; or what the configuration says."""
    issuer = server.url.removesuffix("/token")
    header, claims = await sent(server, client)
    assert (header["typ"], claims["aud"]) == ("client-authentication+jwt", server.url)
    for audience, expected in ((None, issuer), ("issuer", issuer), ("token_endpoint", server.url), ("urn:x", "urn:x")):
        server.script.append(json_reply(200, issuer=issuer, token_endpoint=server.url))
        asked = registration(None, issuer=issuer, method=KEY, assertion=AssertionSettings(audience=audience))
        await client.request(asked)
        assert part(assertion_of(server.requests[-1]), 1)["aud"] == expected
        client._discovery._kept.clear()
    header, _ = await sent(server, client, assertion=AssertionSettings(typ="JWT"))
    assert header["typ"] == "JWT"


@pytest.mark.parametrize("lifetime_s", [10.0, 60.0, 300.0], ids=lambda lifetime_s: f"P41-{lifetime_s:g} s")
async def test_its_life(server, client, lifetime_s):
    """Short, and backdated by no more than the skew allowed for."""
    now = SystemClock().wall()
    _, claims = await sent(server, client, assertion=AssertionSettings(lifetime_s=lifetime_s))
    assert claims["exp"] - claims["iat"] == lifetime_s
    assert now - BACKDATED_S - 2 <= claims["iat"] <= SystemClock().wall()
    assert claims["exp"] > now


async def test_P41_its_key_and_algorithm(server, client):
    """The name of the key is sent where it is configured; the algorithm is the key's; `none` cannot be had."""
    header, _ = await sent(server, client)
    assert (header["alg"], "kid" in header) == ("ES256", False)
    header, _ = await sent(server, client, assertion=AssertionSettings(key_id="k-1"))
    assert header["kid"] == "k-1"
    key = jwk.import_key(private_key(), "EC")
    assert jws.deserialize_compact(assertion_of(server.requests[-1]), key, algorithms=["ES256"])
    found = faults(credential(BY_KEY + "private_key_file: a\nsigning_alg: none"))
    assert any("signing_alg: expected one of" in fault for fault in found)
    reason = await nothing_sent(server, client, assertion=AssertionSettings(algorithm="none"))
    assert reason == "signing_alg: the key is for ES256, not for none"


async def nothing_sent(server, client, **members) -> str:
    """Returns why a token request was not even sent."""
    before = len(server.requests)
    with pytest.raises(TokenRequestError) as caught:
        await client.request(registration(server.url, **{"method": KEY, **members}))
    assert (caught.value.stage, len(server.requests)) == (Stage.CONFIGURATION, before)
    return caught.value.detail


@pytest.mark.parametrize("method", BY_ASSERTION, ids=lambda method: f"P42-{method}")
async def test_its_client(server, client, method):
    """RFC 7521 §4.2: the id in the form is the one in the assertion."""
    await client.request(registration(server.url, method=method, client_id="team:1"))
    form = dict(server.requests[0].form)
    assert form["client_id"] == part(form["client_assertion"], 1)["sub"] == "team:1"


async def test_P43_a_secret_that_signs(server, client, tmp_path):
    """RFC 7518 §3.2: its octets are the key; too few of them are an error, at start or before anything is sent."""
    await client.request(registration(server.url, method=ClientAuthMethod.CLIENT_SECRET_JWT))
    key = jwk.OctKey.import_key(SECRET.encode())
    assert jws.deserialize_compact(assertion_of(server.requests[0]), key, algorithms=["HS256"])
    assert "too short for HS256" in faults(credential(BY_SECRET_JWT + "client_secret: short"))[0]
    file = tmp_path / "secret"
    file.write_text("x" * 31)
    shrunk = {"method": ClientAuthMethod.CLIENT_SECRET_JWT, "client_secret": SecretFile(file)}
    assert "too short" in await nothing_sent(server, client, **shrunk)


def made_elsewhere(**claims: Any) -> str:
    """Returns an assertion as somebody else may have signed it."""
    now = SystemClock().wall()
    parts = [{"alg": "RS256"}, {"sub": "system:serviceaccount:x", "exp": now + 600, **claims}]
    return ".".join([*(urlsafe_b64encode(json.dumps(p).encode()).rstrip(b"=").decode() for p in parts), "c2lnbmF0dXJl"])


async def test_P44_an_assertion_of_somebody_else(server, client, tmp_path, caplog):
    """Read at each attempt, without the line's end, and never logged."""
    caplog.set_level(logging.DEBUG)
    file = tmp_path / "assertion"
    asked = registration(server.url, method=KEY, client_assertion=SecretFile(file))
    texts = [made_elsewhere(n=number) for number in range(2)]
    for text in texts:
        file.write_text(text + "\n")
        await client.request(asked)
    assert [assertion_of(request) for request in server.requests] == texts
    server.script.append(error_reply("invalid_client", 401, error_description=texts[1]))
    with pytest.raises(TokenRequestError) as caught:
        await client.request(asked)
    assert all(text not in caplog.text + caught.value.explained() for text in texts)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (made_elsewhere(exp=1), "expired"),
        ("not a token", "no signed JWT"),
        ("a.b", "no signed JWT"),
        ("a.b.c", "no signed JWT"),
        ("x" * 20_000, "no signed JWT"),
    ],
    ids=["P44-expired", "P44-spaces", "P44-two parts", "P44-no JSON", "P44-long"],
)
async def test_an_assertion_of_no_use(server, client, tmp_path, text, reason):
    """It is not sent."""
    Path(tmp_path / "assertion").write_text(text)
    assert reason in await nothing_sent(server, client, client_assertion=SecretFile(tmp_path / "assertion"))


# ---- RFC 8707


@pytest.mark.parametrize(
    "resource", ["/relative", "https://a.example/#x", "api", "https://a b"], ids=lambda resource: f"P48-{resource}"
)
def test_what_is_no_resource(resource):
    """§2: an absolute URI without fragment, checked in the file."""
    fault = faults(with_credential(f"resource: ['{resource}']"))[0]
    assert fault == "6:16: credentials.orders.resource[0]: expected an absolute URI without fragment"


async def test_P48_several_resources(server, client):
    """Each once, in the order of the file."""
    asked = registration(server.url, resource=("https://b.example/x?y", "urn:a"))
    await client.request(asked)
    assert [value for name, value in server.requests[0].form if name == "resource"] == [
        "https://b.example/x?y",
        "urn:a",
    ]


async def test_P49_a_resource_that_is_refused(server):
    """`invalid_target` is a fault of the configuration, and not tried again soon; another resource is another token."""
    server.default = error_reply("invalid_target")
    async with kept(server, settings(server, asks={"resource": ("urn:a",)})) as running:
        running.chance.value = 0.999
        with pytest.raises(Exception, match="invalid_target"):
            await running.source.obtain(WAIT_S)
        assert running.status.last_outcome is Outcome.OAUTH_ERROR
        await running.clock.advance(10)
        assert len(server.requests) == 1
    assert identity(registration(resource=("urn:a",))) != identity(registration(resource=("urn:b",)))
