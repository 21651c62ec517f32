"""Which decoders of transformers are read, and whether all that is read and changed is right.

    python benchmarks/architectures.py [--types llama mamba2 ...] [--out docs]

For every causal language model type of the installed transformers a tiny model with random weights
is made and saved (`tiny_configurations`), and loaded by `homolog.load`.  Then, in float32:

    read      embed, resid_pre and resid of every block equal what forward hooks see on a module of
              transformers that is otherwise left alone, and so do the logits
    kept      saved and loaded again it has the same bytes of logits
    edits     Replace and Add at resid_pre and resid change the logits as hooks do that put there
              the same
    causal    other tokens at the end change no residual stream before them
    goes on   continue_from(L, resid.L) has the logits of the pass, or refuses L by its InputError
Each type runs in a process of its own, with a limit of time.  `--out FOLDER` writes the table
architectures.md there.  The exit code is 1 where a check fails or anything but an InputError is
raised.
"""

from __future__ import annotations

import argparse
import inspect
import multiprocessing
import re
import sys
import tempfile
import textwrap
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from tiny_configurations import SMALL, tiny_configuration
from torch import Tensor
from transformers import AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging

import homolog
from homolog.circuits.known import require_paths
from homolog.errors import InputError
from homolog.models import Add, LanguageModel, Replace, save
from homolog.models.guards import no_fetched_kernels
from homolog.models.load import read_configuration
from homolog.models.random_weights import fresh

SECONDS = 90
"""Of one type, after which it is given up."""
LENGTH, CHANGED_FROM, N_EXPERTS = 12, 7, SMALL["n_routed_experts"]
EXACT, ROUNDED, DIFFERS = "exact", "to rounding", "differs by"
ROUNDING = 1e-5
CIRCUITS, STREAM, REFUSED, FAILED = "circuits", "residual stream", "refused", "failed"
MEANINGS = {
    CIRCUITS: "sites inside blocks and path patching too",
    STREAM: "the stream before and after every block is read and changed",
    REFUSED: "by an error that says why",
    FAILED: "a check does not hold, or an error says nothing",
}
COMMAND = "python benchmarks/architectures.py --out docs"

START = f"""# Architectures

Which causal language models of transformers are read, and how exactly. Of every type a tiny model
with random weights was made, saved, loaded and checked, in float32 on a CPU. What may have or be an
encoder was made a decoder alone (BERT's family by `is_decoder = true`, BART's by
`is_encoder_decoder = false`); else it is refused. Written by `{COMMAND}`, which does it all again.
"""
CHECKS = f"""`exact`: to the bit; `{ROUNDED}`: within {ROUNDING:g} of the norm.

- **read**: embed, resid_pre and resid of every block, and logits, against forward hooks on a module
  of transformers that is otherwise left alone.
- **kept**: the logits, once saved and loaded again.
- **edits**: logits after Replace and Add at resid_pre and resid, against hooks that do the same.
- **causal**: the stream at every position, where tokens after it are others.
- **goes on**: `continue_from` every block against the whole pass; it refuses where later blocks
  read more than the stream.
"""


@dataclass(frozen=True)
class Outcome:
    """What came out for one type.

    status  of `MEANINGS`
    why     it is refused or has failed
    checks  how well each holds, by its name
    """

    status: str
    why: str = ""
    checks: Mapping[str, str] = field(default_factory=dict)


class NotMade(Exception):
    """Transformers raises something over a tiny model of its own."""


def outcome(model_type: str) -> Outcome:
    """Make, load and check the model of a type."""
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "tiny"
        try:
            _make(model_type, folder)
            model = homolog.load(folder)
        except NotMade as error:
            return Outcome(REFUSED, f"transformers cannot make it here: {error}")
        except InputError as error:
            return Outcome(REFUSED, error.requirement)
        again = homolog.load(save(model, Path(parent) / "again"))
        checks = Checks(model, again, _module(folder)).all()
    if any(DIFFERS in held for held in checks.values()):
        return Outcome(FAILED, checks=checks)
    return Outcome(CIRCUITS if _has_circuits(model) else STREAM, checks=checks)


def _make(model_type: str, folder: Path) -> None:
    """Save a tiny model.  InputError for a configuration that homolog refuses by itself."""
    with _transformers_own():
        config = tiny_configuration(model_type)
        config.save_pretrained(folder)
    read_configuration(folder)
    with _transformers_own():
        hf = _spread(fresh(config, seed=0))
        hf.save_pretrained(folder)
        if hf.config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
            config.save_pretrained(folder)  # a part of it, which by itself is no model
        _forward(_module(folder), torch.tensor([[5, 6, 7]]))


@contextmanager
def _transformers_own() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise NotMade(said_by(error)) from error


def said_by(error: Exception) -> str:
    return f"{type(error).__name__}: {textwrap.shorten(str(error), 200, placeholder=' ...')}"


def _spread(hf: Any) -> Any:
    """Fresh weights are so small that blocks hardly act; every part shall matter."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, p in hf.named_parameters():
            if p.is_floating_point() and not re.search(r"(A_log|\.D|norm\w*\.weight)$", name):
                p.add_(0.1 * torch.randn(p.shape, generator=generator))
        for name, table in hf.named_buffers():
            if name.endswith("tid2eid"):  # the experts of each token, DeepSeek V4's
                table.random_(0, N_EXPERTS, generator=generator)
    return hf.eval()


def _module(folder: Path) -> Any:
    with no_fetched_kernels():
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def _forward(hf: Any, tokens: Tensor) -> Tensor:
    options = (
        {"use_cache": False} if "use_cache" in inspect.signature(hf.forward).parameters else {}
    )
    with torch.no_grad():
        return hf(tokens, **options).logits


def _logits(model: LanguageModel, tokens: Tensor) -> Tensor:
    logits = model.run(tokens).logits
    assert logits is not None
    return logits


def _has_circuits(model: LanguageModel) -> bool:
    try:
        require_paths(model)
    except InputError:
        return False
    return True


class Checks:
    """A loaded model beside the same saved again, and the module that transformers makes of it."""

    def __init__(self, model: LanguageModel, again: LanguageModel, hf: Any) -> None:
        self.model, self.again, self.hf = model, again, hf
        paths = {id(part): path for path, part in model.hf.named_modules()}
        self.blocks = hf.get_submodule(paths[id(model.blocks())])
        generator = torch.Generator().manual_seed(2)
        both = torch.randint(10, 90, (2, 2, LENGTH), generator=generator)
        both[1, :, :CHANGED_FROM] = both[0, :, :CHANGED_FROM]
        self.tokens, self.others = both
        self.noise = torch.randn(2, LENGTH, model.d_model, generator=generator)

    def all(self) -> dict[str, str]:
        with torch.no_grad():
            return {
                "read": self.read(),
                "kept": how_equal([(_logits(self.again, self.tokens), self.logits())]),
                "edits": self.edits(),
                "causal": self.causal(),
                "goes on": self.goes_on(),
            }

    def logits(self) -> Tensor:
        return _logits(self.model, self.tokens)

    def hooked(
        self, put: Mapping[str, Callable[[Tensor], Tensor]]
    ) -> tuple[dict[str, Tensor], Tensor]:
        """What hooks see in the module, by site, and its logits; `put` changes streams."""
        seen: dict[str, Tensor] = {}

        def at(site: str, h: Tensor) -> Tensor:
            """The stream where a hook is; its lanes, where it has some, are read side by side."""
            first, n = h.ndim == 4 and h.shape[1:3] == self.tokens.shape, len(h)
            wide = torch.cat(list(h), -1) if first else h.flatten(2)
            seen[site] = put.get(site, lambda value: value)(wide).clone()
            return torch.stack(seen[site].chunk(n, -1)) if first else seen[site].view(h.shape)

        def before(layer: int) -> Callable[..., Any]:
            def hook(_block: Any, args: Any, kwargs: Any) -> Any:
                h = at(f"resid_pre.{layer}", args[0] if args else kwargs["hidden_states"])
                return ((h, *args[1:]), kwargs) if args else ((), kwargs | {"hidden_states": h})

            return hook

        def after(layer: int) -> Callable[..., Any]:
            def hook(_block: Any, _args: Any, out: Any) -> Any:
                h = at(f"resid.{layer}", out if isinstance(out, Tensor) else out[0])
                return h if isinstance(out, Tensor) else (h, *out[1:])

            return hook

        handles = []
        for layer, block in enumerate(self.blocks):
            if hasattr(block, "pre_ln"):  # what it gives is what blocks add to, in RWKV-4
                normed = lambda _m, _a, out, layer=layer: at(f"resid_pre.{layer}", out)  # noqa: E731
                handles.append(block.pre_ln.register_forward_hook(normed))
            else:
                handles.append(block.register_forward_pre_hook(before(layer), with_kwargs=True))
            handles.append(block.register_forward_hook(after(layer)))
        try:
            return seen, _forward(self.hf, self.tokens)
        finally:
            for handle in handles:
                handle.remove()

    def read(self) -> str:
        seen, logits = self.hooked({})
        run = self.model.run(self.tokens, capture=list(seen))
        pairs = [(run[site], value) for site, value in seen.items()]
        plain = (self.logits(), _forward(self.hf, self.tokens))
        return how_equal([*pairs, plain, (run.logits, logits)])

    def edits(self) -> str:
        pairs, clean, positions = [], self.logits(), (2, LENGTH - 1)
        added = torch.zeros_like(self.noise)
        added[:, list(positions)] = self.noise[0, 0]
        for kind in ("resid_pre", "resid"):
            site = f"{kind}.{self.model.n_layers // 2}"
            for edit, put in (
                (Replace(site, self.noise), lambda h: self.noise.to(h)),
                (Add(site, self.noise[0, 0], positions=positions), lambda h: h + added),
            ):
                edited = self.model.run(self.tokens, edits=[edit]).logits
                assert edited is not None
                if torch.equal(edited, clean):
                    return f"{DIFFERS} nothing at {site}"
                pairs.append((edited, self.hooked({site: put})[1]))
        return how_equal(pairs)

    def causal(self) -> str:
        sites = ["embed", *(f"resid.{layer}" for layer in range(self.model.n_layers))]
        both = [self.model.run(tokens, capture=sites) for tokens in (self.tokens, self.others)]
        earlier = [[run[site][:, :CHANGED_FROM] for site in sites] for run in both]
        return how_equal(list(zip(*earlier, strict=True)))

    def goes_on(self) -> str:
        layers = range(-1, self.model.n_layers)
        sites = ["embed", *(f"resid.{layer}" for layer in layers[1:])]
        run = self.model.run(self.tokens, capture=sites)
        pairs, refused = [], []
        for layer, site in zip(layers, sites, strict=True):
            try:
                pairs.append((self.model.continue_from(layer, run[site]), run.logits))
            except InputError:
                refused.append(site)
        if not pairs:
            return "refused"
        return how_equal(pairs) + (f"; refused from {', '.join(refused)}" if refused else "")


def how_equal(pairs: list[Any]) -> str:
    """In words, of pairs of tensors that shall be equal."""
    if all(torch.equal(a, b) for a, b in pairs):
        return EXACT
    worst = max(float((a - b).norm() / b.norm().clamp_min(1e-30)) for a, b in pairs)
    return ROUNDED if worst <= ROUNDING else f"{DIFFERS} {worst:.1g}"


def alone(model_type: str) -> Outcome:
    """The outcome of a process of its own, which is ended when its time is over."""
    context = multiprocessing.get_context("fork")  # each would import for seconds
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(model_type, theirs))
    process.start()
    theirs.close()
    try:
        if not ours.poll(SECONDS):
            return Outcome(FAILED, f"not done in {SECONDS} s")
        return ours.recv()
    except EOFError:
        return Outcome(FAILED, "its process died")
    finally:
        process.kill()
        process.join()


def _send(model_type: str, pipe: Any) -> None:
    try:
        pipe.send(outcome(model_type))
    except Exception as error:
        pipe.send(Outcome(FAILED, f"not an InputError: {said_by(error)}"))


def page(outcomes: Mapping[str, Outcome]) -> str:
    """Text of docs/architectures.md."""
    counts = Counter(one.status for one in outcomes.values())
    read = {kind: one for kind, one in outcomes.items() if one.checks}
    names = list(next(iter(read.values())).checks) if read else []
    refused = {kind: one for kind, one in outcomes.items() if one.why}
    return "\n".join(
        [
            START,
            *table(["", "types", ""], [[s, str(counts[s]), why] for s, why in MEANINGS.items()]),
            f"| all of transformers {transformers.__version__} | {len(outcomes)} | |",
            f"\n## Read\n\n{CHECKS}",
            *table(
                ["type", "", *names],
                [[f"`{k}`", one.status, *one.checks.values()] for k, one in read.items()],
            ),
            "\n## Not read\n",
            *table(["type", "", "why"], [[f"`{k}`", o.status, o.why] for k, o in refused.items()]),
            "",
        ]
    )


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in (head, *rows)]
    lines = [f"| {' | '.join(row)} |" for row in escaped]
    return [lines[0], "|---" * len(head) + "|", *lines[1:]]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    types = sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    parser.add_argument("--types", nargs="*", default=types, metavar="TYPE")
    parser.add_argument("--out", type=Path, help="write architectures.md into this folder")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    outcomes = {}
    for model_type in options.types:
        one = outcomes[model_type] = alone(model_type)
        held = ", ".join(f"{check} {how}" for check, how in one.checks.items())
        print(f"{model_type:28} {one.status:16} {one.why or held}", flush=True)
    counts = Counter(one.status for one in outcomes.values())
    print(", ".join(f"{n} {status}" for status, n in counts.items()))
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "architectures.md").write_text(page(outcomes))
    sys.exit(counts[FAILED] > 0)


if __name__ == "__main__":
    main()
