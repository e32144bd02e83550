"""Training of MediRound-Lite, the small model that the repository ships."""
