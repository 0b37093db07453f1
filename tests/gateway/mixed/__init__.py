"""Mixed traffic through whole gateways: whose answer is it, do both paths agree, does anything grow."""
