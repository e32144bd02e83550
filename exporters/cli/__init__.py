"""The larger commands of ``python -m exporters``: arguments in, what is printed out.

Begin with ``vision``. ``exporters.__main__`` alone imports this package; commands do not know one another.
"""
