"""Work on pixels that is done fast and, to the bit, as the plain way does it.

Begin with ``masks``. Knows arrays. Does not know the model's sizes, what a crop is of, or sessions.
"""
