"""The dashboards as Python. `grafana/generate` writes them as JSON."""
