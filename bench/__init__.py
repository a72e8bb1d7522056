"""Measurements: scripts that print JSON lines {"name", "value", "unit", "baseline", "ratio", …}."""
