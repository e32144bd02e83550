"""Sessions that are kept in a Redis, which servers on several machines may share.

Begin with ``sessions``; ``records`` is what the Redis does for them, by ``scripts`` that run there as a whole,
over a ``connection``; ``server`` is what it must be. How a session lies there is ``serving.stores.kept``'s.
"""
