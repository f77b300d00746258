"""The real server, in a process of its own, over a real socket."""
