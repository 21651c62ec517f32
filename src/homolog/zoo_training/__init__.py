"""How the models and the text of `zoo` are made: a tool above everything else.

text            the text, its tokenizer, its tokens
families        the configuration of each family, and how it is trained
data, train     batches, and a model from its name
evaluate, card  held-out loss and induction, and the card that states them
"""
