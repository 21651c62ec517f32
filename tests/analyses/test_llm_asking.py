"""Answers are kept, budgets hold, failures say what to do: the real client and a small server."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.analyses.chat import ChatServer, chat_server
from tests.processes import HANGS

from homolog.analyses.ratings.asking import (
    KEY_VARIABLE,
    Budget,
    Endpoint,
    Question,
    Tally,
    ask,
    cached,
    connect,
)
from homolog.errors import InputError


@pytest.fixture
def server() -> Iterator[ChatServer]:
    """Answers a question with its last word."""
    with chat_server(lambda question: question.split()[-1]) as running:
        yield running


def endpoint_of(server: ChatServer) -> Endpoint:
    return Endpoint(server.url, "small", concurrency=4, attempts=3, timeout=HANGS)


def send(server, folder, text="say yes", budget=Budget(), tally=None):  # noqa: B008
    with connect(endpoint_of(server)) as client:
        return ask(client, endpoint_of(server), Question(text), folder, budget, tally or Tally())


def test_an_answer_is_asked_for_once_and_the_key_is_not_stored(server, tmp_path, monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, "secret-key")
    tally = Tally()
    first = send(server, tmp_path, tally=tally)
    again = send(server, tmp_path, tally=tally)
    assert first == again and first.reply == "yes" and first.tokens == 10
    assert (tally.requests, tally.cached, tally.tokens) == (1, 1, 10)
    (sent,) = server.seen
    assert sent["path"] == "/v1/chat/completions" and sent["key"] == "Bearer secret-key"
    assert (sent["model"], sent["temperature"], sent["max_tokens"]) == ("small", 0.0, 300)
    (file,) = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert json.loads(file.read_text()) == {"reply": "yes", "tokens": 10}
    file.write_text('{"reply": ')  # damaged: asked again
    assert cached(endpoint_of(server), Question("say yes"), tmp_path) is None
    assert send(server, tmp_path) == first


def test_busy_servers_are_asked_again_and_dead_ones_named(server, tmp_path):
    server.failures = [429, 503]
    assert send(server, tmp_path).reply == "yes" and len(server.seen) == 3
    server.failures = [500] * 3
    with pytest.raises(InputError, match=r"no answer came .*answers so far are kept"):
        send(server, tmp_path, "say no")
    assert send(server, tmp_path).reply == "yes"  # what came before is kept
    server.failures = [401]
    with pytest.raises(InputError, match=KEY_VARIABLE):
        send(server, tmp_path, "say no")


def test_a_closed_port_and_a_wrong_url(tmp_path):
    with socket.socket() as bound:  # and not listening
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
    closed = Endpoint(f"http://127.0.0.1:{port}/v1", "small", attempts=1, timeout=HANGS)
    with connect(closed) as client, pytest.raises(InputError, match="no answer came"):
        ask(client, closed, Question("say yes"), tmp_path, Budget(), Tally())
    with pytest.raises(InputError, match="base URL"):
        connect(Endpoint("localhost:8000", "small"))


def test_budgets_hold_with_many_threads(server, tmp_path):
    tally = Tally()
    with connect(endpoint_of(server)) as client, ThreadPoolExecutor(8) as pool:
        budget = Budget(requests=5)
        asked = [Question(f"say {i}") for i in range(20)]
        answers = list(
            pool.map(lambda q: ask(client, endpoint_of(server), q, tmp_path, budget, tally), asked)
        )
    assert sum(answer is not None for answer in answers) == len(server.seen) == tally.requests == 5
    assert tally.refused == 15 and tally.tokens == 50
    tally = Tally()
    estimate = Question("say me").tokens()
    assert (
        send(server, tmp_path, "say me", Budget(tokens=estimate - 1), tally) is None
        and tally.refused == 1
    )
    assert (
        send(server, tmp_path, "say me", Budget(tokens=estimate), tally) is not None
        and tally.tokens == 10
    )
