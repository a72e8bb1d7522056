"""Training of a click network for all projects: generated scenes and real sets, mixed."""
