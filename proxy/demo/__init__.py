"""What `bearer-proxy demo` shows the gateway with: an authorization server and a protected API, over real sockets.

Both are honest about the protocol (RFC 6749, 6750, 8414): tokens are signed and really verified. They are small, keep
nothing, and are no product; tests use them too, with faults on demand. Nothing of the gateway imports this package.
"""

from proxy.demo.servers import DemoServers

__all__ = ["DemoServers"]
