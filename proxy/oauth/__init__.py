"""What is said to an authorization server, and what it said: the OAuth 2.0 client-credentials grant (RFC 6749 §4.4).

``Registration`` says what to ask for, ``TokenEndpointClient`` asks once, and the answer is a ``TokenGrant`` or a
``TokenRequestError``. When to ask, and who shares the answer, is the business of ``proxy.tokens``.
"""
