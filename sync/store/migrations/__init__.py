"""Migrations of the store: the steps from each release's tables to those of the next."""
