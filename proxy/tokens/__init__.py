"""When to ask for an access token, and who shares it.

``source`` is the seam that the rest of the gateway sees; ``keepers`` builds what stands behind it: one ``Keeper`` for
each token, the only one who asks for it and writes it.
"""
