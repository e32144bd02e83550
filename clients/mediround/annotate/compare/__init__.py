"""Two runs over the same items, compared: what a model change does to an archive, so that a site can decide.

Begin with ``comparing``. Says how far two runs agree, and where targets exist how near each comes to them. It is
no measure of accuracy.
"""
