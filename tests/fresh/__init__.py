"""The README's two commands and the Dockerfile's steps, in a Debian that has nothing yet.

``make test-fresh``, as root. Only the standard library: this runs before anything is installed.
"""
