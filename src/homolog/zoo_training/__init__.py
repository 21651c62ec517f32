"""How the models and the text of `zoo` were made, and are made again: a tool above everything else.

gather, build_tokenizer   the text that ships, and its tokenizer
data, train               batches, and a model from its seed
evaluate, card            held-out loss and induction, and the card that states them
"""
