"""Langchain-Chatchat's dialect."""
