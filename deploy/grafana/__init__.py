"""The dashboard: made by Python, committed as the JSON that Grafana imports."""
