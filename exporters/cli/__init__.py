"""The commands of ``python -m exporters``: arguments in, what is printed out.

Begin with ``vision``. ``exporters.__main__`` alone imports them, each when it is asked for; commands do not
know one another.
"""
