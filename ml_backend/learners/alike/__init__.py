"""What to compare masks by before any model has learnt from a project's labels: proposals and their looks."""
