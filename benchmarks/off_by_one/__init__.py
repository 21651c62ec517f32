"""When is a Mamba off by one?  Tiny ones, trained on induction alone, and what each of them shows.

train.py    the task, the grid of configurations, and one model from fresh weights to its row
figure.py   the figure, and the table behind it
"""
