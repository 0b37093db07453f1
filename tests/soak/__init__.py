"""Mixed traffic through a running gateway for a long time."""
