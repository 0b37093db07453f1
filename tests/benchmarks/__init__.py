"""Benchmarks: the gateway beside other proxies on one machine; see README.md here."""
