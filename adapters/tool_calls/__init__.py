"""Tool calls as models write them, read out of text."""
