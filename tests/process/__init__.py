"""Tests of a whole process."""
