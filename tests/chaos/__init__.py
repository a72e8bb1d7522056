"""Kill everything at random moments, and see that nothing is lost and nothing is there twice.

``test_chaos.py`` is the short form; ``python -m tests.chaos`` (``make soak``) the long one.
"""
