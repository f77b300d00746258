"""What a client sees: HTTP in, HTTP out."""
