"""Clients in Python, each asked for the same things in the dialects that it speaks."""
