"""HTTP/1.1, statement by statement: each test's id carries the number (R1 to R50) of the statement that it holds."""
