"""Who gets a place at the engine, and when."""
