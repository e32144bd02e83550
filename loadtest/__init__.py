"""Load on a server, through the published client alone."""
