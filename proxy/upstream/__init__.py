"""The lean HTTP/1.1 client side: connections, their pools, and one exchange at a time on each.

Others use ``origin.Origin``, ``pool.PoolLimits/PoolKey/Pools``, ``exchange.Exchange``, and, for a path
made of callbacks, ``connection.UpstreamConnection`` with its ``Sink``. Nothing here knows routes or tokens.
"""
