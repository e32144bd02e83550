"""``make demo``: real dialogues on real MRI slices, through the real service."""
