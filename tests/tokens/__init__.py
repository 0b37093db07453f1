"""The life of an access token."""
