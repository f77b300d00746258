"""Benchmarks of the gateway beside vLLM's own server."""
