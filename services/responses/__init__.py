"""Responses that clients may refer to: SQLite in the state folder, where configured."""
