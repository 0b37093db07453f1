"""Takes out one defence after the other and expects a test to fail: `make test-mutations`.

A defence that can be taken out without any test noticing is not held by the tests, and will be lost one day. ``table``
lists the defences, each with the tests that must notice; ``runner`` tries them on a copy of the tree.
"""
