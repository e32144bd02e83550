"""Sources: where items come from. Each lists its items one after the other; what is wrong with one is said in it.

Begin with ``listing``, which knows them all.
"""
