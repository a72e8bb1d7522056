"""Learners that find boxes. ``faster_rcnn`` has two stages; ``one_stage`` decides at every place at once."""
