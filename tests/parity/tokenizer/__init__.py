"""Token ids that the published model's own tokenizer gave, and the dialogues that it was given."""
