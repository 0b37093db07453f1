"""The second listener: metrics, health and status for operators. It reads plain values and changes nothing."""

from proxy.admin.facts import AdminFacts, ConnectionCounts
from proxy.admin.server import AdminServer

__all__ = ["AdminFacts", "AdminServer", "ConnectionCounts"]
