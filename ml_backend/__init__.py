"""Serving side: label configs, regions, images, learners, clicks, and the Flask app that speaks to Label Studio."""
