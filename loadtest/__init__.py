"""Load on a server, through the published client alone.

Begin with ``scenario``, what is asked for, then ``run``. serving and exporters may not be imported.
"""
