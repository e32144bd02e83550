"""Sessions that are to be kept, in one SQLite file: they outlive their time in memory, and the process.

Begin with ``sessions``, the SessionStore; ``records`` is what it asks of the file, in transactions of
``database``. ``codec`` and ``seal`` are how a session lies there. Knows no other store but the one in memory,
which holds what is at work.
"""
