"""OpenAI's dialect: a client's body to a GenerationRequest, Deltas to a client's bytes."""
