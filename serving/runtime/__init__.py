"""How work is run in a process: graphs, threads, tasks, shared memory, caches, time.

Begin with ``graph``, then ``worker``. It knows files, bytes and arrays; of serving it may import errors, the
bundle and logs alone.
"""
