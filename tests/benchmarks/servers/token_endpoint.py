"""A token endpoint for benchmarks: the client-credentials grant, always the one token that the upstream knows.

The demonstration's authorization server makes a new token each time, which an nginx in the upstream's place could not
verify. A client named `...-short` gets tokens that live 4 s, so that refreshes happen while latency is measured.

Usage: PORT, with TOKEN, CLIENT_ID and CLIENT_SECRET in the environment.
"""

from __future__ import annotations

import base64
import json
import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote_plus


class TokenEndpoint(BaseHTTPRequestHandler):
    """Answers POST of whatever path; GET tells that it is up."""

    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class names it so
        """Writes nothing: requests are counted by nobody."""

    def do_GET(self) -> None:
        """Says that it is there."""
        self._answer(200, {})

    def do_POST(self) -> None:
        """Gives the token to who authenticates, by Basic or in the form."""
        octets = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        form = {name: values[0] for name, values in parse_qs(octets.decode()).items()}
        client_id, secret = form.get("client_id", ""), form.get("client_secret", "")
        scheme, _, encoded = self.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "basic":
            client_id, _, secret = map(unquote_plus, base64.b64decode(encoded).decode().partition(":"))
        short = client_id == os.environ["CLIENT_ID"] + "-short"
        known = short or client_id == os.environ["CLIENT_ID"]
        if form.get("grant_type") != "client_credentials" or not known or secret != os.environ["CLIENT_SECRET"]:
            self._answer(401, {"error": "invalid_client"})
            return
        life_s = 4 if short else 3600
        self._answer(200, {"access_token": os.environ["TOKEN"], "token_type": "Bearer", "expires_in": life_s})

    def _answer(self, status: int, content: dict[str, str | int]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), TokenEndpoint).serve_forever()
