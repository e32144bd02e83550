"""Sessions that are to be kept, wherever they lie: they outlive their time in memory, and the process.

Begin with ``sessions``, the SessionStore; ``records`` is what it asks of the place where they lie, of which there
are several (``serving.stores.sqlite``, ``serving.stores.redis``). ``parts``, ``codec`` and ``seal`` are how a
session lies in each. Knows no place, and no other store but the one in memory, which holds what is at work.
"""
