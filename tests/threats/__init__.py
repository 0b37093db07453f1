"""The threats of an authenticating gateway, each tried by an attacker's own octets; a test's name carries its number.

The README's section "Threats" is the list: what each one is, what stands against it, and what remains.
"""
