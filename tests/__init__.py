"""The tests of bearer-proxy, laid out as the package is: what is held for `proxy/x/y.py` stands in `tests/x/test_y.py`."""
