"""bearer-proxy: forwards each request to a protected API with a Bearer token it keeps fresh.

A legacy client speaks plain HTTP to the gateway; the gateway adds the access token it got by the OAuth 2.0
client-credentials grant (RFC 6749 §4.4). Start reading at ``proxy/gateway/handler.py``, which holds a request's whole
story; ``proxy/cli.py`` is the command line.
"""

__version__ = "0.1.0"
