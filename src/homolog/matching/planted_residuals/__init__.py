"""Two models whose residuals are sums of known latents: the verdict's truth through dictionaries.

`latents` plants them, `truth` says which latent a feature follows and which part of an error is
whose, `chain` goes from encoded features to the verdict as a study does.
"""

from homolog.matching.planted_residuals.chain import Encoded, called
from homolog.matching.planted_residuals.latents import (
    PlantedModel,
    PlantedText,
    ResidualPlanting,
    World,
)
from homolog.matching.planted_residuals.truth import LEAST_R, Followed, Truth, account

__all__ = [
    "LEAST_R",
    "Encoded",
    "Followed",
    "PlantedModel",
    "PlantedText",
    "ResidualPlanting",
    "Truth",
    "World",
    "account",
    "called",
]
