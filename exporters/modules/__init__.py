"""The model's networks in plain torch, under the published state-dict names."""
