"""Searched representations on disk: a store, several as one, and what fills it."""
