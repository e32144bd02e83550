"""``mediround segment`` and ``mediround dicom check``: DICOM files from a terminal or a script.

Knows arguments, the terminal and files. Does not know how a series is read, asked or written.
"""
