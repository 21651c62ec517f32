"""How fast this machine is, for the costs of a run (`costs`): products, and passes of its models.

What a pass takes is timed on the model itself, in the precision and with the threads of the run: a
product tells little of attention, norms and all that is done element by element.  Models whose
weights are not at hand, or that are large, are not loaded for it.  Of those products are counted,
with P parameters inside L blocks, V ids of tokens and d = d_model:

    block    = (2 P / L + 4 context d) / products + states SCAN + (d + neurons) ELEMENT
    read_out = 2 V d / products + V ELEMENT

Times are means, not the shortest, so that other work on the machine counts as it will in the run.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from homolog.analyses.material import Material
from homolog.dictionaries.hardware import product_precision
from homolog.errors import InputError
from homolog.features.capture import FORWARD_TOKENS
from homolog.models import LanguageModel, Site
from homolog.models.load import has_weights
from homolog.models.products import project
from homolog.models.size import ModelSize, size_of
from homolog.pipeline.models import models_of
from homolog.record.process import machine
from homolog.record.recipe import Recipe
from homolog.threads import library_threads

SCAN = 0.3e-9  # a state of a recurrent block, at a token, with two threads
ELEMENT = 4e-9  # a value of the stream, the neurons or the logits, with two: norms, softmax, loss
GPU_SCAN = 0.01e-9  # the same where memory alone bounds it: 12 bytes at 1.2 TB/s, not measured
THREADS = 2
GPU = 150e12  # products a second of a GPU of 80 GB in bfloat16, where none is there to measure
MOST_PARAMETERS = 1e9  # of a model that is loaded to be timed; larger ones are nearly all products
BLOCKS = 8  # that are timed; architectures that mix kinds of blocks repeat them in fewer
SECONDS = 1.0  # of a pass that is timed, about
LOGITS = 1 << 26  # of a read-out that is timed


@dataclass(frozen=True)
class PassPace:
    """Seconds of a model's pass at each token.

    block: of one block, on average; read_out: of final norm, unembedding and loss.
    """

    block: float
    read_out: float


@dataclass(frozen=True)
class Pace:
    """How fast this machine is: products a second in the models' precision and in training's.

    double: the same in float64, in which what fires often is matched.
    threads: of a task, as shares of which the constants of `costs` are counted.  passes: of the
    models that were timed.
    """

    products: float = 40e9
    training: float = 200e9
    threads: int = THREADS
    gpu: bool = False
    double: float = 20e9
    passes: Mapping[ModelSize, PassPace] = field(default_factory=dict)

    @property
    def dictionaries(self) -> tuple[float, float]:
        """Dense products in training, for one in encoding, and what scattered work counts: on a GPU
        all is dense, and nothing scattered is left.
        """
        return (6.0, 0.0) if self.gpu else (1.0, self.shared)

    def of_pass(self, size: ModelSize, context: int) -> PassPace:
        """What a pass of a model takes, as it was timed, or else as it is counted."""
        if (timed := self.passes.get(size)) is not None:
            return timed
        scan, element = (GPU_SCAN, 0.0) if self.gpu else (SCAN * self.shared, ELEMENT * self.shared)
        attention = 0 if size.n_states else 4 * context * size.d_model
        products = 2 * size.n_inner / size.n_layers + attention
        elements = (size.d_model + size.n_neurons) * element
        return PassPace(
            block=products / self.products + size.n_states * scan + elements,
            read_out=2 * size.n_unembedding / self.products + size.n_vocabulary * element,
        )

    @property
    def shared(self) -> float:
        """What the constants are multiplied by."""
        return THREADS / self.threads


def measured_pace(recipe: Recipe, threads: int | None = None) -> Pace:
    """The pace of the recipe's device: a fraction of a second of products, seconds a model.

    threads: of a task; None: as many as the libraries take.
    """
    device = torch.device(recipe.run.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        return Pace(GPU, GPU, THREADS, gpu=True, double=GPU / 2)
    dtypes = (recipe.run.dtype, product_precision(recipe.sae.precision, device), "float64")
    with library_threads(threads), torch.inference_mode():
        products, training, double = (_products(device, getattr(torch, dtype)) for dtype in dtypes)
        passes = _passes(recipe)
    n_threads = threads or int(machine()["n_cpus"])
    return Pace(products, training, n_threads, device.type == "cuda", double, passes)


def _passes(recipe: Recipe) -> dict[ModelSize, PassPace]:
    """Of every model that can be loaded at once; twins of one size, and revisions, are alike."""
    models, random = models_of(recipe), recipe.run.random_weights
    material = Material(Path(), recipe, models)
    passes: dict[ModelSize, PassPace] = {}
    for model in models.all:
        size = size_of(model.ref, model.revision, random=random)
        at_hand = random or has_weights(model.ref, model.revision)
        if size not in passes and size.n_parameters <= MOST_PARAMETERS and at_hand:
            with contextlib.suppress(InputError):  # which the run says, not its plan
                passes[size] = timed_pass(material.model(model), recipe.corpus.context)
    return passes


def timed_pass(
    model: LanguageModel, context: int, clock: Callable[[], float] = time.perf_counter
) -> PassPace:
    """What a model takes for windows of so many tokens, from up to `SECONDS` of a few blocks."""
    model, blocks = model.plain, min(BLOCKS, model.n_layers)
    last, vocabulary = Site("resid", blocks - 1), model.embedding().num_embeddings
    draw = torch.Generator().manual_seed(0)

    def tokens(windows: int) -> torch.Tensor:
        return torch.randint(vocabulary, (windows, context), generator=draw)

    def read(windows: int) -> torch.Tensor:
        return model.run(tokens(windows), capture=[last], stop_after=last)[last]

    def read_out(h: torch.Tensor) -> torch.Tensor:
        logits = model.continue_from(model.n_layers - 1, h)
        targets = torch.zeros(logits.shape[:2], dtype=torch.long, device=logits.device)
        return torch.nn.functional.cross_entropy(logits.transpose(1, 2), targets)

    def timed(work: Callable[..., torch.Tensor], *given: Any) -> tuple[float, torch.Tensor]:
        begun, made = clock(), work(*given)
        float(made.flatten()[0])  # waits for a device
        return clock() - begun, made

    read(1)  # kernels are compiled
    one, _ = timed(read, 1)
    windows = max(1, min(int(SECONDS / max(one, 1e-9)), FORWARD_TOKENS // context))
    took, h = timed(read, windows)
    at_once = max(1, LOGITS // vocabulary)
    h = h[: max(1, at_once // context), :at_once]
    read_out(h[:1, :1])
    end, _ = timed(read_out, h)
    tokens_read, tokens_out = windows * context, h.shape[0] * h.shape[1]
    return PassPace(block=took / (tokens_read * blocks), read_out=end / tokens_out)


def _products(device: torch.device, dtype: torch.dtype, seconds: float = 0.15) -> float:
    """Operations a second of (1024, 768) by (768, 3072), two for each multiplication."""
    shapes = (1024, 768), (3072, 768)
    x, weight = (torch.randn(shape, device=device).to(dtype) for shape in shapes)
    float(project(x, weight)[0, 0])
    done, begun = 0, time.perf_counter()
    while done == 0 or time.perf_counter() - begun < seconds:
        float(project(x, weight)[0, 0])  # waits for a device
        done += 1
    return done * 2 * 1024 * 768 * 3072 / (time.perf_counter() - begun)
