"""Series: the frames of a folder or a list of objects, grouped into stacks and put in order.

``read_series`` is the way in. Knows headers alone; no pixel is read.
"""
