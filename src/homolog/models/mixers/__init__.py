"""Token mixers, one file each: `base.py` says what they have in common."""
