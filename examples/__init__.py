"""Short programs on the published client, to copy from. Begin with ``notebook``; clients/README.md explains."""
