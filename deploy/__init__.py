"""Where and how the gateway runs."""
