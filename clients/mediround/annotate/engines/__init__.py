"""Engines: what schedules a run's items. They call one ``annotate``, and write one index.

Knows the seam, in ``interface``. Does not know how items are asked.
"""
