"""The request path: from an accepted connection to the last byte of the answer.

Start at ``handler``, which tells the story of one request. ``decide``, ``access``, ``rewrite``, ``rescue``, ``problem``
and ``rate_limit`` are pure: they say what to do, ``handler``, ``relay``, ``front`` and ``server`` do it.
"""
