"""What a session remembers, and how it changes: values and pure functions.

Begin with ``record``; ``rounds`` is what it is made of, ``changes`` makes the next record of one. Records are pure
values: a store may keep them as it likes, and whoever reads them rebuilds every prompt from the masks that were
used. Knows neither engines, stores nor the wire.
"""
