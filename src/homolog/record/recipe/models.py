"""[[models]]: what is compared, with the models that serve as its controls."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from homolog.record.layers import ALL, STREAM_AFTER, Layers
from homolog.record.names import TOKEN_NAME, folder_name, model_name
from homolog.record.settings import Settings

RANDOM = "random"
"""The untrained twin that is made of a model's own configuration."""
REVISION = "{revision}"
"""In a ref, the place of each of `revisions`."""
LONGEST_NAME = 64
"""Characters of a model's name: several, with labels, stand in the name of one file."""


def _as_word(value: object) -> object:
    """true and false of a TOML file, as they are written on the command line."""
    return str(value).lower() if isinstance(value, bool) else value


class WindowBeginning(Settings):
    """Whether the windows of a model begin with its beginning-of-text token."""

    bos: Annotated[Literal["auto", "true", "false"], BeforeValidator(_as_word)] = "auto"
    """Whether the model reads its beginning-of-text token before every window: as its tokenizer
    does before a text (auto; refused where the other way costs 0.5 nats a token less), true, or
    false.
    """


class Model(WindowBeginning):
    """One of the models that are compared, with the models that serve as its controls."""

    ref: str
    """Zoo name ("zoo:transformer-s0"), folder, GGUF file or Hugging Face Hub id; its controls share
    its tokenizer, and two models that do not are compared by units of text.
    """

    name: str | None = None
    """What it is called in tables, folders and pages, once in a recipe: "pythia-step1000".  None:
    the zoo's name or the Hub id; of a folder or file, the last part of its path.
    """

    revision: str | None = None
    """Branch, tag or commit of a Hub id."""

    revisions: tuple[str, ...] | None = Field(default=None, min_length=1)
    """The model at several steps of its training, each a model of the study with these settings,
    called NAME-REVISION: revisions of a Hub id or, where ref has {revision} in it, what to put
    there.
    """

    untrained: str | None = None
    """Its untrained twin: what other models' features find in an architecture without training.  A
    model, or "random": its own configuration with weights that `run.seed` draws; of several
    revisions that of the first, for all have one architecture.
    """

    other_seed: str | None = None
    """The same model trained from another seed: the model-seed skyline."""

    layers: Layers = ALL
    """Its blocks that have dictionaries, and those of its controls: all, numbers ([3, 7]), every so
    many ("every 4"), or depths as shares of the blocks passed ("0.25, 0.5, 0.75").
    """

    site: str = STREAM_AFTER
    """Place of a block whose values its dictionaries, and those of its controls, are of: the
    residual stream after it (resid), before it (resid_pre) or between (resid_mid), or what its
    parts add (attn_out, mlp_out, mixer_out); docs/sites.md has those of an architecture.
    """

    sae: dict[str, int | float] = Field(default_factory=dict)
    """Numbers of [sae] that its own dictionaries are trained with, where they differ."""

    untrained_sae: dict[str, int | float] = Field(default_factory=dict)
    """The same of its untrained twin, which has to be fitted as well (`matching.control_gap`) and
    is denser.
    """

    saes: str | None = None
    """Its dictionaries, where they are there already: a folder, or "hf:OWNER/NAME/FOLDER", of any
    format that `dictionaries.load` reads, with {layer} for the block.  None: they are trained, as
    [sae] says.
    """

    saes_seed: str | None = None
    """The same from another seed, for the SAE-seed skyline and stability, which the model is
    without otherwise.
    """

    @model_validator(mode="after")
    def _consistent(self) -> Model:
        if self.saes_seed is not None and self.saes in (None, self.saes_seed):
            raise ValueError("saes_seed needs saes, and must be other dictionaries than those")
        self._require_revisions()
        if self.name is not None and self.name != folder_name(self.name)[:LONGEST_NAME]:
            signs = "letters, digits and . _ -, not beginning with a dot"
            raise ValueError(f"a name is of {signs}, at most {LONGEST_NAME} of them")
        if self.name == TOKEN_NAME:
            raise ValueError(f"{TOKEN_NAME} is what stands for no model at all")
        return self

    def _require_revisions(self) -> None:
        if self.revisions is None:
            if REVISION in self.ref:
                raise ValueError(f"{REVISION} in ref stands for one of revisions: give them")
            return
        if self.revision is not None or len(set(self.revisions)) < len(self.revisions):
            raise ValueError("give revisions, each once, and no revision beside them")
        if any(saes and REVISION not in saes for saes in (self.saes, self.saes_seed)):
            raise ValueError(f"each revision has dictionaries of its own: put {REVISION} in saes")

    @property
    def called(self) -> str:
        """Its name, given or not; of revisions what they have in common."""
        return self.name or model_name(self.ref.replace(REVISION, "").rstrip("/-_.#=") or self.ref)

    @property
    def named(self) -> tuple[Model, ...]:
        """The models that it stands for, each with its name: one for each revision."""
        if self.revisions is None:
            return (self.model_copy(update={"name": self.called}),)
        return tuple(map(self._at, self.revisions))

    def _at(self, revision: str) -> Model:
        filled = {
            key: value.replace(REVISION, revision)
            for key in ("ref", "saes", "saes_seed")
            if (value := getattr(self, key)) is not None
        }
        of_hub = {} if REVISION in self.ref else {"revision": revision}
        name = f"{self.called}-{folder_name(revision)}"
        return self.model_copy(update={"name": name, "revisions": None} | filled | of_hub)
