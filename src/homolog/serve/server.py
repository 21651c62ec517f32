"""A web server for one run folder: loopback only, reads only, nothing outside the folder.

The report opens from the file system; this is for a browser on another machine, through a tunnel,
and for a prompt to try:

    /...                   files of the run folder, as they lie there
    /prompt/TOKEN/         the page of a prompt; GET
    /prompt/TOKEN/read     questions, JSON to JSON; POST
    /prompt/TOKEN/change

TOKEN is drawn anew at every start, so that neither another user of the machine nor a page elsewhere
can make the models work.  Who came with it (in an address, or in the cookie that this leaves) finds
links to the page in the report; the files themselves have none.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from http.cookies import CookieError, SimpleCookie
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from threading import BoundedSemaphore
from typing import Any, Protocol, runtime_checkable
from urllib.parse import parse_qs, urlsplit

from homolog.errors import InputError
from homolog.record.run_folder import RunFolder
from homolog.serve.pages import ASSETS, POLICY, asset, linked, prompt_page

LOOPBACK = "127.0.0.1"
START_PAGE = "/report/index.html"
PROMPT = "/prompt/"
_HOSTS = {"localhost", LOOPBACK, "[::1]"}

MOST_BYTES = 1 << 15
"""Of the body of a question."""
MOST_WAITING = 4
"""Questions that wait or are answered at a time."""
MOST_CONNECTIONS = 64
SECONDS = 60
"""After which a connection that says nothing is closed."""
MOST_SAID = 600
"""Characters of a refusal, which repeats what it refuses."""


class Busy(InputError):
    """One question too many."""


@runtime_checkable
class Answers(Protocol):
    """What answers questions about prompts (`desk.Desk`)."""

    @property
    def about(self) -> Mapping[str, Any]: ...

    def answer(self, what: str, values: Any) -> Mapping[str, Any]: ...


@dataclass(frozen=True)
class Prompt:
    """What stands behind the page of a prompt.

    answers: who answers; None where something is missing, then `missing` says so.
    """

    answers: Answers | None
    missing: str = ""
    token: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    waiting: BoundedSemaphore = field(default_factory=lambda: BoundedSemaphore(MOST_WAITING))

    def is_token(self, given: str) -> bool:
        """Whether it is the token; takes as long for any."""
        return secrets.compare_digest(given.encode("utf-8", "replace"), self.token.encode())

    @property
    def page(self) -> str:
        """Path of its page."""
        return f"{PROMPT}{self.token}/"


class Server(ThreadingHTTPServer):
    """With a bound on connections; one that breaks off is no error."""

    daemon_threads = True
    prompt: Prompt | None = None
    """What answers prompts; None: files alone.  May be set until it serves."""

    def __init__(self, *arguments: Any) -> None:
        self._free = BoundedSemaphore(MOST_CONNECTIONS)
        super().__init__(*arguments)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:  # no thread could be begun
            self._free.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that has left is nothing to report, and all else is answered."""


class _Handler(SimpleHTTPRequestHandler):
    """Files of the folder for GET and HEAD: none hidden, no listings, no links out of it."""

    timeout = SECONDS

    def __init__(self, request: Any, client: Any, server: Server, *, run: RunFolder) -> None:
        self.run, self.prompt, self.policy, self.leaves = run, server.prompt, "", False
        self.cookie = f"homolog-{server.server_port}"  # ports of one host share their cookies
        super().__init__(request, client, server, directory=str(run.path))

    def send_head(self) -> Any:
        if not self._by_own_name():
            return None
        where = urlsplit(self.path)
        if where.path == "/":
            self.send_response(HTTPStatus.FOUND)
            self.send_header("Location", START_PAGE)
            self.end_headers()
            return None
        if self.prompt is not None and f"{where.path}/".startswith(PROMPT):
            return self._prompt_file(self.prompt, where.path)
        root = Path(self.directory).resolve()
        path = Path(self.translate_path(self.path)).resolve()
        inside = path.is_relative_to(root) and path.is_file()
        if not inside or any(part.startswith(".") for part in path.relative_to(root).parts):
            self.send_error(HTTPStatus.NOT_FOUND, "no such file in this run")
            return None
        if self.prompt is not None and path.suffix == ".html" and self._came_with(self.prompt):
            page = linked(path.read_text("utf-8"), self.prompt.page)
            return self._told(page.encode(), "text/html; charset=utf-8")
        return super().send_head()

    def do_POST(self) -> None:
        """A question about a prompt."""
        if not self._by_own_name():
            return
        self.close_connection = True
        given, _, what = urlsplit(self.path).path.removeprefix(PROMPT).partition("/")
        if self.prompt is None or not self.prompt.is_token(given):
            self._say(HTTPStatus.FORBIDDEN, {"error": "the address has another token"})
            return
        try:
            status, said = HTTPStatus.OK, self._answer(self.prompt, what)
        except InputError as error:
            busy = isinstance(error, Busy)
            status = HTTPStatus.SERVICE_UNAVAILABLE if busy else HTTPStatus.BAD_REQUEST
            said = {"error": _short(str(error))}
        except Exception as error:  # of a model or its device: the page says it
            words = f"The models failed: {type(error).__name__}: {error}"
            status, said = HTTPStatus.INTERNAL_SERVER_ERROR, {"error": _short(words)}
        self._say(status, said)

    def _answer(self, prompt: Prompt, what: str) -> Mapping[str, Any]:
        values = self._body()
        if prompt.answers is None:
            raise InputError("models", None, prompt.missing, "See the page of the prompt.")
        if not prompt.waiting.acquire(blocking=False):
            requirement = f"at most {MOST_WAITING} are answered at a time"
            raise Busy("questions", "one more", requirement, "Ask again in a moment.")
        try:
            return prompt.answers.answer(what, values)
        finally:
            prompt.waiting.release()

    def _body(self) -> Any:
        """The JSON that a question holds.  InputError where there is none, or too much."""
        kind = self.headers.get_content_type()
        if kind != "application/json":
            raise InputError("Content-Type", kind, "it must be application/json", "Send JSON.")
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit() and len(length) < 10):
            raise InputError("Content-Length", length, "it must say the bytes", "Send it.")
        if int(length) > MOST_BYTES:
            requirement = f"a question has {MOST_BYTES:,} bytes at most"
            raise InputError("question", f"{int(length):,} bytes", requirement, "Shorten it.")
        try:
            return json.loads(self.rfile.read(int(length)), parse_constant=_no_number)
        except (ValueError, RecursionError) as error:
            value = f"unreadable ({error})"
            raise InputError("question", value, "it must be JSON", "Send JSON.") from error

    def _prompt_file(self, prompt: Prompt, path: str) -> Any:
        """The page of the prompt and what it loads."""
        given, slash, name = path.removeprefix(PROMPT).partition("/")
        if not prompt.is_token(given):
            self.send_error(HTTPStatus.FORBIDDEN, "the address has another token")
            return None
        if not slash:
            self.send_response(HTTPStatus.FOUND)
            self.send_header("Location", prompt.page)
            self.end_headers()
            return None
        if name not in ("", *ASSETS):
            self.send_error(HTTPStatus.NOT_FOUND, "no such file of the prompt")
            return None
        self.policy = POLICY
        if name:
            kind = "text/css" if name.endswith(".css") else "text/javascript"
            return self._told(asset(name).encode(), f"{kind}; charset=utf-8")
        self.leaves = True
        about = None if prompt.answers is None else prompt.answers.about
        page = prompt_page(self.run, about, prompt.missing)
        return self._told(page.encode(), "text/html; charset=utf-8")

    def _came_with(self, prompt: Prompt) -> bool:
        """Whether an address or a cookie has the token; the former leaves the latter."""
        named = parse_qs(urlsplit(self.path).query, max_num_fields=8).get("token", [""])[0]
        if prompt.is_token(named):
            self.leaves = True
            return True
        try:
            kept = SimpleCookie(self.headers.get("Cookie", "")).get(self.cookie)
        except CookieError:
            return False
        return kept is not None and prompt.is_token(kept.value)

    def _by_own_name(self) -> bool:
        # A page elsewhere could point its own name at 127.0.0.1; a request by that name is refused.
        own = self.headers.get("Host", "").rsplit(":", 1)[0] in _HOSTS
        if not own:
            self.send_error(HTTPStatus.FORBIDDEN, "only served under the name localhost")
        return own

    def _told(self, body: bytes, kind: str, status: HTTPStatus = HTTPStatus.OK) -> BytesIO:
        """The head of an answer; returns its body."""
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        return BytesIO(body)

    def _say(self, status: HTTPStatus, said: Mapping[str, Any]) -> None:
        body = json.dumps(said, allow_nan=False).encode()
        self.wfile.write(self._told(body, "application/json", status).read())

    def end_headers(self) -> None:
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cache-Control", "no-store")
        self.send_header("Referrer-Policy", "no-referrer")
        if self.policy:
            self.send_header("Content-Security-Policy", self.policy)
        if self.leaves and self.prompt is not None:
            kept = f"{self.cookie}={self.prompt.token}; Path=/; HttpOnly; SameSite=Strict"
            self.send_header("Set-Cookie", kept)
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not logged."""


def make_server(run: Path, port: int = 0, prompt: Prompt | None = None) -> Server:
    """A server of the run folder on 127.0.0.1 (port 0: any free one), not started.

    prompt: None serves the files alone.
    Raises `InputError` if `run` is no run or the port cannot be used.
    """
    handler = partial(_Handler, run=RunFolder(run))
    try:
        server = Server((LOOPBACK, port), handler)
    except (OSError, OverflowError) as error:
        raise InputError(
            "--port", port, f"it must be free ({error})", "Give another, or 0 for any."
        ) from error
    server.prompt = prompt
    return server


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


def _short(words: str) -> str:
    return words if len(words) <= MOST_SAID else f"{words[:MOST_SAID]} …"
