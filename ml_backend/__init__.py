"""Serving side: label configs, regions, images, learners, clicks, and the app that speaks to Label Studio."""
