"""Rows: what was asked and answered, kept in PostgreSQL."""
