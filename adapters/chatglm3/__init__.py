"""ChatGLM3's chat format: prompts by id, answers read from ids, tool calls."""
