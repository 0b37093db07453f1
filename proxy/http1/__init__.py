"""HTTP/1.1 as rules over bytes: fields, request targets, body framing and heads. No socket, no clock, no asyncio.

Strict on purpose: what two parsers could read in two ways is refused, and the rest is kept byte for byte. Errors towards
the client are a ``Refusal``, faults of an upstream a ``GatewayError`` with ``http_protocol_error``.

Source: RFC 9110 (semantics), RFC 9112 (messages), RFC 3986 (target grammar).
"""
