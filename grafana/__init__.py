"""The dashboards: `source/` makes them, the JSON files beside this one are what Grafana reads."""
