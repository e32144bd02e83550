"""``make gpu-check``: what only a GPU can show, run row by row.

``rows`` is the one place of what is run and of what docs/gpu-verification.md says; to add a row, add it there and
write the page again (``python -m deploy.gpu_check --write-page``).
"""
