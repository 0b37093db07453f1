"""What several tests need: servers on loopback, clocks that a test moves, and checks of conventions."""
