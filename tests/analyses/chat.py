"""A small OpenAI-compatible server on this machine, for what a real model cannot be made to do."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class ChatServer(ThreadingHTTPServer):
    """Replies `answer(question)`, 10 tokens each.

    failures: statuses of its first replies.  seen: what was sent.
    """

    def __init__(self, answer: Callable[[str], str]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer = answer
        self.failures: list[int] = []
        self.seen: list[dict] = []
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class _Handler(BaseHTTPRequestHandler):
    server: ChatServer

    def do_POST(self) -> None:
        sent = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            status = self.server.failures.pop(0) if self.server.failures else 200
            self.server.seen.append(
                sent | {"path": self.path, "key": self.headers["Authorization"]}
            )
        message = {
            "role": "assistant",
            "content": self.server.answer(sent["messages"][0]["content"]),
        }
        reply = {
            "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
            "id": "1",
            "created": 1,
            "model": "small",
            "object": "chat.completion",
            "usage": {"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10},
        }
        body = json.dumps(reply if status == 200 else {"error": {"message": "later"}}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Retry-After", "0")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def chat_server(answer: Callable[[str], str]) -> Iterator[ChatServer]:
    """The server while the block runs."""
    with ChatServer(answer) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        try:
            yield running
        finally:
            running.shutdown()
            thread.join()
