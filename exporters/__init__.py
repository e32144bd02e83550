"""From a checkpoint in the published layout to a bundle that serving can load."""
