"""What the server lets through: who asks, how much at a time, and pages without models."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import socket
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from tests.report.planted_features import planted
from tests.serve.study import A, served
from typer.testing import CliRunner

from homolog.cli import app
from homolog.errors import InputError
from homolog.progress import SilentProgress
from homolog.record.run_folder import RunFolder
from homolog.serve.desk import Desk
from homolog.serve.opening import open_desk
from homolog.serve.pages import MARK
from homolog.serve.server import MOST_BYTES, MOST_WAITING, START_PAGE, Prompt

LINK = "A prompt to try</a>"
JSON = {"Content-Type": "application/json"}


def asked(
    address: str, path: str, body: bytes | None = None, **headers: str
) -> tuple[int, Mapping[str, str], str]:
    """Status, headers and text of an answer; a body is posted."""
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=60)
    try:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if body is not None:
            named = JSON | named
        connection.request("GET" if body is None else "POST", path, body, named)
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read().decode()
    finally:
        connection.close()


def test_a_question_is_answered(address: str, prompt: Prompt, desk: Desk) -> None:
    status, headers, body = asked(address, f"{prompt.page}read", b'{"text": "a king"}')
    assert status == 200 and headers["Content-Type"] == "application/json"
    assert "Access-Control-Allow-Origin" not in headers
    assert json.loads(body) == json.loads(json.dumps(desk.answer("read", {"text": "a king"})))


def test_half_a_character_is_answered(address: str, prompt: Prompt) -> None:
    status, _, body = asked(address, f"{prompt.page}read", rb'{"text": "\ud83d\u0000 <b>"}')
    assert status == 200 and json.loads(body)["text"] == "\ufffd\0 <b>"


@pytest.mark.parametrize("token", ["", "x", "%C3%A4", "..", "{}x"])
def test_without_its_token_nothing_is_answered(address: str, prompt: Prompt, token: str) -> None:
    token = token.format(prompt.token)
    for path in (f"/prompt/{token}", f"/prompt/{token}/", f"/prompt/{token}/prompt.js"):
        status, headers, body = asked(address, path)
        assert status == 403 and "Set-Cookie" not in headers and prompt.token not in body
    for path in ("/prompt/read", f"/prompt/{token}/read", "/read", "/"):
        assert asked(address, path, b'{"text": "a"}')[0] == 403


def test_a_token_is_new_at_every_start(prompt: Prompt, desk: Desk) -> None:
    other = Prompt(desk)
    assert other.token != prompt.token and len(other.token) >= 32
    assert prompt.is_token(prompt.token) and not prompt.is_token(other.token)
    assert not prompt.is_token("\udcff") and not prompt.is_token("ä")


def test_another_name_of_this_machine_is_refused(address: str, prompt: Prompt) -> None:
    for path, body in ((prompt.page, None), (f"{prompt.page}read", b'{"text": "a"}')):
        assert asked(address, path, body, Host="evil.example")[0] == 403


def test_the_page_loads_what_lies_beside_it_and_nothing_else(address: str, prompt: Prompt) -> None:
    status, headers, body = asked(address, prompt.page)
    assert status == 200 and "script-src 'self'" in headers["Content-Security-Policy"]
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert headers["Referrer-Policy"] == "no-referrer"
    files = re.findall(r'(?:src|href)="([^"./][^":]*\.(?:js|css))"', body)
    assert len(files) == 5
    for file in files:
        assert asked(address, f"{prompt.page}{file}")[0] == 200
    assert asked(address, prompt.page.rstrip("/"))[1]["Location"] == prompt.page
    for path in ("../run.json", "%2e%2e/run.json", "prompt.html.j2", "/etc/passwd", "report.js"):
        assert asked(address, prompt.page + path)[0] == 404


@pytest.mark.parametrize(
    ("body", "headers", "words"),
    [
        (b"{", {}, "it must be JSON"),
        (b"\xff", {}, "it must be JSON"),
        (b"[" * 20_000, {}, "it must be JSON"),
        (b'{"text": NaN}', {}, "NaN is no number of JSON"),
        (b'{"text": "a"}', {"Content_Type": "text/plain"}, "it must be application/json"),
        (b" " * (MOST_BYTES + 1), {}, "32,768 bytes at most"),
        (b"{}", {"Content_Length": "-1"}, "it must say the bytes"),
        (b"{}", {"Content_Length": "9" * 40}, "it must say the bytes"),
        (b'{"text": ""}', {}, "there must be something to read"),
        (json.dumps({"text": "x" * 3000}).encode(), {}, "2,000 characters at most"),
        (b'{"text": "a", "<b>": 1}', {}, "question is '<b>'"),
    ],
    ids=range(11),
)
def test_what_is_no_question_is_refused_in_words(
    address: str, prompt: Prompt, body: bytes, headers: dict[str, str], words: str
) -> None:
    status, _, said = asked(address, f"{prompt.page}read", body, **headers)
    assert status == 400 and words in json.loads(said)["error"]
    assert len(said) < 1000


class Slow:
    """Answers when it is let."""

    about: Mapping[str, Any] = {}

    def __init__(self) -> None:
        self.begun, self.end = threading.Semaphore(0), threading.Event()

    def answer(self, what: str, values: Any) -> Mapping[str, Any]:
        self.begun.release()
        self.end.wait()
        return {}


def test_questions_at_a_time_are_bounded(run: RunFolder) -> None:
    slow = Slow()
    prompt = Prompt(slow)
    with served(run.path, prompt) as address:
        found: list[int] = []

        def ask() -> None:
            found.append(asked(address, f"{prompt.page}read", b"{}")[0])

        threads = [threading.Thread(target=ask) for _ in range(MOST_WAITING)]
        for thread in threads:
            thread.start()
            slow.begun.acquire()
        status, _, said = asked(address, f"{prompt.page}read", b"{}")
        assert status == 503 and "Ask again in a moment" in json.loads(said)["error"]
        assert asked(address, START_PAGE)[0] == 200  # pages need not wait
        slow.end.set()
        for thread in threads:
            thread.join()
        assert found == [200] * MOST_WAITING
        assert asked(address, f"{prompt.page}read", b"{}")[0] == 200


class Broken:
    about: Mapping[str, Any] = {}

    def answer(self, what: str, values: Any) -> Mapping[str, Any]:
        raise RuntimeError("out of memory <b>")


def test_a_failure_is_told_and_the_server_goes_on(run: RunFolder) -> None:
    prompt = Prompt(Broken())
    with served(run.path, prompt) as address:
        for _ in range(MOST_WAITING + 1):
            status, _, said = asked(address, f"{prompt.page}read", b"{}")
            assert status == 500 and "RuntimeError: out of memory" in json.loads(said)["error"]
        parts = urlsplit(address)
        with socket.create_connection((parts.hostname, parts.port)) as left:
            left.sendall(b"POST /prompt/x/read HTTP/1.1\r\nHost: localhost\r\n")
        assert asked(address, START_PAGE)[0] == 200


def test_pages_link_to_the_prompt_for_who_came_with_the_token(
    address: str, prompt: Prompt, run: RunFolder
) -> None:
    page = run.path / START_PAGE[1:]
    assert MARK in page.read_text("utf-8") and LINK not in page.read_text("utf-8")
    assert asked(address, START_PAGE)[2] == page.read_text("utf-8")
    assert LINK not in asked(address, f"{START_PAGE}?token=x")[2]
    _, headers, body = asked(address, f"{START_PAGE}?token={prompt.token}")
    assert f'<a href="{prompt.page}">{LINK}' in body
    kept = headers["Set-Cookie"]
    assert "HttpOnly" in kept and "SameSite=Strict" in kept
    assert LINK in asked(address, START_PAGE, Cookie=kept.split(";")[0])[2]
    assert LINK not in asked(address, START_PAGE, Cookie="homolog-1=x; ;=")[2]
    name = kept.split("=")[0]
    assert LINK not in asked(address, START_PAGE, Cookie=f"{name}=x")[2]


def test_the_explorer_has_a_place_for_the_link(tmp_path: Path) -> None:
    page = planted(tmp_path / "explorer").read_text("utf-8")
    assert MARK in page and LINK not in page


def test_files_alone_are_served_as_they_are(run: RunFolder) -> None:
    with served(run.path, None) as address:
        body = asked(address, START_PAGE)[2]
        assert body == (run.path / START_PAGE[1:]).read_text("utf-8")
        assert asked(address, "/prompt/")[0] == 404
        assert asked(address, "/prompt/x/read", b"{}")[0] == 403


def copied(run: RunFolder, folder: Path) -> Path:
    return Path(shutil.copytree(run.path, folder / "copy"))


def test_without_models_the_pages_are_whole_and_the_prompt_says_what_is_missing(
    run_of_two: RunFolder, tmp_path: Path
) -> None:
    copy = copied(run_of_two, tmp_path)
    folder = run_of_two.path.parent / "other"
    aside = folder.rename(folder.with_name("aside"))
    try:
        with pytest.raises(InputError, match="other") as caught:
            open_desk(copy, SilentProgress())
    finally:
        aside.rename(folder)
    prompt = Prompt(None, f"{caught.value}<script>")
    with served(copy, prompt) as address:
        status, _, page = asked(address, prompt.page)
        assert status == 200 and "The models of this run are not here" in page
        assert str(folder) in page and "<script>" not in page
        status, _, said = asked(address, f"{prompt.page}read", b'{"text": "a"}')
        assert status == 400 and str(folder) in json.loads(said)["error"]
        for file in sorted((copy / "report").rglob("*.html")):
            status, _, body = asked(address, f"/{file.relative_to(copy).as_posix()}")
            assert status == 200 and body == file.read_text("utf-8")


def test_other_weights_than_the_run_read_are_refused(run_of_two: RunFolder, tmp_path: Path) -> None:
    weights = run_of_two.path.parent / "other" / "model.safetensors"
    before = weights.read_bytes()
    weights.write_bytes(before[:-4] + b"\0\0\0\0")
    try:
        with pytest.raises(InputError, match="are not what the run was made with"):
            open_desk(run_of_two.path, SilentProgress())
    finally:
        weights.write_bytes(before)
    open_desk(run_of_two.path, SilentProgress())  # the same bytes again


@pytest.mark.parametrize("change", ["gone", "damaged"])
def test_dictionaries_that_are_gone_or_damaged_are_named(
    run: RunFolder, tmp_path: Path, change: str
) -> None:
    copy = RunFolder(copied(run, tmp_path))
    folder = copy.sae_folder(A, 3)
    if change == "gone":
        shutil.rmtree(folder)
    else:
        file = next(folder.glob("*.safetensors"))
        file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(InputError, match="saes/transformer-s0/3"):
        open_desk(copy.path, SilentProgress())


def test_a_run_without_matches_says_so(run: RunFolder, tmp_path: Path) -> None:
    copy = copied(run, tmp_path)
    (copy / "matches.parquet").unlink()
    with pytest.raises(InputError, match="a study with matched features"):
        open_desk(copy, SilentProgress())


def test_the_command_says_both_addresses(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(self: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("homolog.serve.server.Server.serve_forever", stopped)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    said = CliRunner().invoke(app, ["serve", str(run.path), "--port", "0"])
    assert said.exit_code == 0, said.output
    report, page = re.findall(r"http://localhost:\d+(\S+)", said.stdout)
    token = report.partition("?token=")[2]
    assert page == f"/prompt/{token}/" and len(token) >= 32
    assert "load transformer-s0" in said.stderr and "load mamba-s0: done" in said.stderr
    said = CliRunner().invoke(app, ["serve", str(run.path), "--port", "0", "--pages-only"])
    assert re.findall(r"http://localhost:\d+(\S+)", said.stdout) == [START_PAGE]
