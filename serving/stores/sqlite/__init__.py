"""Sessions that are kept in one SQLite file.

Begin with ``sessions``; ``records`` is what the file does for them, in transactions of ``database``, on the tables
of ``schema``. How a session lies there is ``serving.stores.kept``'s.
"""
