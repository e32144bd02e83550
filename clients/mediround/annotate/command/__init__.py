"""``mediround annotate``: what its sub-commands do and print.

Knows arguments, the terminal and exit codes. Does not know how anything is annotated.
"""
