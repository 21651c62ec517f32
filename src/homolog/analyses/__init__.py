"""What a study asks of two models: one folder a question, from the measure to its part of the
report.
"""
