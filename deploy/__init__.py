"""What runs MediRound elsewhere: images, compose, Prometheus, Grafana. Nothing that serves imports it."""
