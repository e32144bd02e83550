"""``make images``: build the Dockerfile's targets without a Docker daemon, and try what was built."""
