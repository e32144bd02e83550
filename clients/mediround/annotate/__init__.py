"""Batch annotation: an archive's images, a dialogue each, through the service, into an index that can be trusted.

``mediround annotate plan|run|status|verify|report|compare``. Needs the
extra (in the repository, ``pip install './clients[annotate]'``).

Begin with ``job``, a job's folder; ``manifest`` holds its items, ``rows`` and ``index`` what is found. The client
may be imported here; nothing of the client, but its command, may import this.
"""
