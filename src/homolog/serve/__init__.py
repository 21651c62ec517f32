"""A run folder in a browser of this machine: its pages, and a prompt to try.

    server     pages and questions over http: loopback only, a token, limits
    question   what may be asked, checked
    opening    the models and dictionaries of a run, loaded once, or what is missing, in words
    reading    one model on one text: features, predictions, and those after a change
    partners   which feature of the other model each one is matched with
    desk       answers questions, one at a time

What loads models is imported when a command asks for it: the pages need no torch.
"""

from homolog.serve.server import START_PAGE, make_server

__all__ = ["START_PAGE", "make_server"]
