"""The model at its own size: from a random checkpoint to masks, and a plain loop that checks what was served."""
