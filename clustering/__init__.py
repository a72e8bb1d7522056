"""Algorithms on arrays: which masks to ask people about, and what their answers prove.

Instances that a model found are a pool (``pool``). ``trees`` clusters it, ``search`` decides what to ask and
what to accept, ``evidence`` holds the tests and bounds behind that, ``crowd`` makes verdicts of the answers
of many workers, ``propagation`` labels every instance. No network, no database, no torch.
"""
