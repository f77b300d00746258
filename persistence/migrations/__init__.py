"""Alembic's home: the steps that make and change the schema."""
