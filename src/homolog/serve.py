"""A web server for one run folder: loopback only, reads only, nothing outside the folder.

The report opens from the file system; this is for a browser on another machine, through a tunnel.
"""

from __future__ import annotations

from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from homolog.errors import InputError
from homolog.record.run_folder import RunFolder

LOOPBACK = "127.0.0.1"
START_PAGE = "/report/index.html"
_HOSTS = {"localhost", LOOPBACK, "[::1]"}


class _Handler(SimpleHTTPRequestHandler):
    """Files of the folder for GET and HEAD; no listings, hidden files or links to the outside."""

    def send_head(self) -> Any:
        # A page elsewhere could point its own name at 127.0.0.1; a request by that name is refused.
        if self.headers.get("Host", "").rsplit(":", 1)[0] not in _HOSTS:
            self.send_error(HTTPStatus.FORBIDDEN, "only served under the name localhost")
            return None
        if self.path.split("?")[0] == "/":
            self.send_response(HTTPStatus.FOUND)
            self.send_header("Location", START_PAGE)
            self.end_headers()
            return None
        root = Path(self.directory).resolve()
        path = Path(self.translate_path(self.path)).resolve()
        inside = path.is_relative_to(root) and path.is_file()
        if not inside or any(part.startswith(".") for part in path.relative_to(root).parts):
            self.send_error(HTTPStatus.NOT_FOUND, "no such file in this run")
            return None
        return super().send_head()

    def end_headers(self) -> None:
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cache-Control", "no-store")
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not logged."""


def make_server(run: Path, port: int = 0) -> ThreadingHTTPServer:
    """A server of the run folder on 127.0.0.1 (port 0: any free one), not started.

    Raises `InputError` if `run` is no run or the port cannot be used.
    """
    folder = RunFolder(run)
    handler = partial(_Handler, directory=str(folder.path))
    try:
        return ThreadingHTTPServer((LOOPBACK, port), handler)
    except (OSError, OverflowError) as error:
        raise InputError(
            "--port", port, f"it must be free ({error})", "Give another, or 0 for any."
        ) from error
