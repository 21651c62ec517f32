"""Token mixers: `base.py` says what they have in common, and each has a file of its own.

What stands beside it is in files of its name (`attention_memory.py`, `delta_recurrence.py`); what
several share is named for what it is (`convolution.py`, `projections.py`, `token_shift.py`).
"""
