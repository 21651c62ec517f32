"""Questions to an OpenAI-compatible endpoint, within a budget, each answer kept as a file.

A question is known by the SHA-256 of all that is sent (model, text, settings), and its answer lies
under that name: what was answered is never asked again, and a run that was stopped goes on.
Retries with exponential back-off, and the waiting time that a server asks for, are the client's
(`openai`).  The key comes from the environment and is never stored.
"""

from __future__ import annotations

import json
import os
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from homolog.errors import InputError
from homolog.record.atomic import read_json, sha256_bytes, write_json

KEY_VARIABLE = "OPENAI_API_KEY"
CHARACTERS_PER_TOKEN = 3.5
"""Of English under common tokenizers, on the low side: estimates are rather too high."""


@dataclass(frozen=True)
class Endpoint:
    """Where to ask: base URL (".../v1"), name of the model, and how.

    attempts: of a request, the first one counted.
    """

    url: str
    model: str
    concurrency: int = 8
    attempts: int = 6
    timeout: float = 120.0
    """Seconds an answer may take."""


@dataclass(frozen=True)
class Budget:
    """Most requests and tokens (of questions and answers) of a call; None: as many as it takes."""

    requests: int | None = None
    tokens: int | None = None


@dataclass(frozen=True)
class Question:
    """One message and the most tokens its answer may have."""

    text: str
    max_tokens: int = 300

    def tokens(self) -> int:
        """About how many tokens question and answer have at most."""
        return int(len(self.text) / CHARACTERS_PER_TOKEN) + self.max_tokens


@dataclass(frozen=True)
class Answer:
    """A reply and what it cost."""

    reply: str
    tokens: int
    """Of question and answer, as the server counted them; estimated where it does not."""


@dataclass
class Tally:
    """What a call has spent, and what became of it.

    requests, tokens: sent now.  cached: answers found on disk.  refused: questions that the budget
    did not allow.
    """

    requests: int = 0
    tokens: int = 0
    cached: int = 0
    malformed: int = 0
    refused: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def count_malformed(self) -> None:
        """One more answer that says nothing."""
        with self.lock:
            self.malformed += 1


def cached(endpoint: Endpoint, question: Question, folder: Path) -> Answer | None:
    """The answer that lies in `folder`; an unreadable file counts as none."""
    try:
        stored = read_json(_path(endpoint, question, folder))
        return Answer(str(stored["reply"]), int(stored["tokens"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def ask(
    client: Any, endpoint: Endpoint, question: Question, folder: Path, budget: Budget, tally: Tally
) -> Answer | None:
    """The answer, from `folder` or from the endpoint; None when the budget does not allow to ask.

    Raises InputError when the endpoint cannot be reached, refuses the key or the model, or keeps
    failing after all attempts; answers that came before are kept.
    """
    if (known := cached(endpoint, question, folder)) is not None:
        with tally.lock:
            tally.cached += 1
        return known
    if not _reserve(question, budget, tally):
        return None
    answer = _request(client, endpoint, question)
    with tally.lock:
        tally.tokens += answer.tokens - question.tokens()  # the reservation becomes what it cost
    write_json(_path(endpoint, question, folder), {"reply": answer.reply, "tokens": answer.tokens})
    return answer


def connect(endpoint: Endpoint) -> Any:
    """A client for the endpoint, safe to use from many threads."""
    try:
        import openai
    except ModuleNotFoundError as error:
        requirement = "the package openai is not installed"
        remedy = 'Install it: pip install "homolog[llm]".'
        raise InputError("--llm", endpoint.url, requirement, remedy) from error
    if not endpoint.url.startswith(("http://", "https://")):
        requirement = "it must be the base URL of an OpenAI-compatible server"
        remedy = "Give a URL such as http://localhost:8000/v1."
        raise InputError("--llm", endpoint.url, requirement, remedy)
    # servers on this machine want no key, the client wants one
    key, retries = os.environ.get(KEY_VARIABLE) or "none", endpoint.attempts - 1
    url, timeout = endpoint.url, endpoint.timeout
    return openai.OpenAI(base_url=url, api_key=key, timeout=timeout, max_retries=retries)


def _path(endpoint: Endpoint, question: Question, folder: Path) -> Path:
    name = sha256_bytes(json.dumps([endpoint.model, _sent(question)], sort_keys=True).encode())
    return folder / name[:2] / f"{name}.json"


def _sent(question: Question) -> dict[str, Any]:
    return {
        "messages": [{"role": "user", "content": question.text}],
        "max_tokens": question.max_tokens,
        "temperature": 0.0,
    }


def _reserve(question: Question, budget: Budget, tally: Tally) -> bool:
    with tally.lock:
        over = budget.requests is not None and tally.requests + 1 > budget.requests
        over |= budget.tokens is not None and tally.tokens + question.tokens() > budget.tokens
        if over:
            tally.refused += 1
            return False
        tally.requests += 1
        tally.tokens += question.tokens()
        return True


def _request(client: Any, endpoint: Endpoint, question: Question) -> Answer:
    import openai

    try:
        completion = client.chat.completions.create(model=endpoint.model, **_sent(question))
    except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
        raise InputError(
            KEY_VARIABLE,
            "refused",
            f"{endpoint.url} wants a key that it knows ({error})",
            f"Set {KEY_VARIABLE} in the environment.",
        ) from error
    except openai.OpenAIError as error:
        raise InputError(
            "--llm",
            f"{endpoint.url} {endpoint.model}",
            f"no answer came ({type(error).__name__}: {error})",
            "Check URL, model and server, and give the command again: answers so far are kept.",
        ) from error
    choices, usage = completion.choices, completion.usage
    reply = (choices[0].message.content if choices else None) or ""
    return Answer(reply, usage.total_tokens if usage else question.tokens())
