"""What is said to an authorization server, and what is made of its answers."""
