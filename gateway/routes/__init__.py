"""Routes: parse, call generation, encode; no logic of their own."""
