"""Worker side: pulls labels from Label Studio, runs rounds, pushes predictions; CLI and store."""
