"""Engines: something that turns token ids into tokens."""
