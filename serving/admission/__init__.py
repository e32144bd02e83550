"""Admission: which requests run now, which wait, and which are refused.

Begin with ``queue``; ``cost`` is its estimate of the work, ``permits`` the plain limit where nothing queues.
Knows ports and the domain; may not import gRPC, engines, stores or metrics.
"""
