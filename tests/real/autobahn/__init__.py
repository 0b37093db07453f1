"""The Autobahn test-suite, which needs a Python 2.7 of its own."""
