"""Two models that others trained, SmolLM2-135M and Gemma 3 270M, compared from packages to page.

text.py      the text that both read
recipe.toml  the study
"""
