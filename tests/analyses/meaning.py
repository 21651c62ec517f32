"""What the tests of features' meaning share."""

CHAPTERS = ("Meaning", "Effects", "Exclusive features", "Transplants")
"""Of the report, in which the analyses of meaning stand."""
