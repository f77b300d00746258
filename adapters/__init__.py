"""Pure translation between wire formats, prompts and the engine's types."""
