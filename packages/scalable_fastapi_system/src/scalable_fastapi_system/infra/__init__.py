"""What touches the outside: settings, stores, logs, metrics, traces. Knows no domain and no web framework."""
