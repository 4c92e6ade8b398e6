"""Identity tokens: kept until they are about to end, and made by google-auth where nothing else is said."""

from __future__ import annotations

import asyncio
import base64
import json
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace

import pytest

pytest.importorskip("google.auth", reason="needs the extra 'gcf'")

from asyncpar.errors import AsyncparError
from asyncpar_gcf.identity import EARLY, Tokens, ends, google_token


def token_until(end):
    """A token as Google's are, without a signature: nobody but Google's front end looks at that."""
    parts = (json.dumps({"alg": "RS256"}), json.dumps({"exp": end}), "signed")
    return ".".join(base64.urlsafe_b64encode(part.encode()).rstrip(b"=").decode() for part in parts)


def test_a_token_says_when_it_ends():
    for end in (1, 1_800_000_000, 1_800_000_000_000):  # with and without padding
        assert ends(token_until(end)) == end
    for unknown in ("", "opaque", "a.b.c", "a.!!.c", "a.bnVsbA.c"):
        assert time.time() + EARLY < ends(unknown) < time.time() + EARLY + 700


async def test_a_token_is_renewed_before_it_ends(monkeypatch):
    now = time.time()
    monkeypatch.setattr("asyncpar_gcf.identity.time", SimpleNamespace(time=lambda: now))
    made = [token_until(now + seconds) for seconds in (EARLY + 10, EARLY + 60)]
    left = list(made)
    tokens = Tokens(lambda: left.pop(0))
    assert {await tokens.get() for _ in range(3)} == {made[0]}
    now += 10
    assert {await tokens.get() for _ in range(3)} == {made[1]}


async def test_many_requests_that_need_a_token_ask_once():
    asked = []

    async def source():
        asked.append(1)
        await asyncio.sleep(0.01)
        return "opaque"

    tokens = Tokens(source)
    assert await asyncio.gather(*(tokens.get() for _ in range(50))) == ["opaque"] * 50
    assert len(asked) == 1


async def test_a_source_that_fails_is_asked_again():
    answers = [OSError("no network"), "opaque"]

    def source():
        answer = answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer

    tokens = Tokens(source)
    with pytest.raises(OSError, match="no network"):
        await tokens.get()
    assert await tokens.get() == "opaque"


class TokenServer(BaseHTTPRequestHandler):
    """What a service account's key says where tokens are made."""

    def do_POST(self):
        said = self.rfile.read(int(self.headers["content-length"])).decode()
        self.server.asked.append(said)
        body = json.dumps({"id_token": token_until(time.time() + 3600)}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def service_account(tmp_path, monkeypatch):
    """A service account's key whose tokens are made on this machine; yields the requests for them."""
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    pem = rsa.generate_private_key(65537, 2048).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    server = HTTPServer(("127.0.0.1", 0), TokenServer)
    server.asked = []
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    account = {
        "type": "service_account", "client_email": "caller@example.iam.gserviceaccount.com", "private_key_id": "1",
        "private_key": pem.decode(), "token_uri": f"http://127.0.0.1:{server.server_port}/token",
    }  # fmt: skip
    (tmp_path / "key.json").write_text(json.dumps(account))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "key.json"))
    yield server.asked
    server.shutdown()
    thread.join()
    server.server_close()


def test_google_auth_makes_a_token_from_a_service_account(service_account):
    token = google_token("https://region-project.cloudfunctions.net/jobs")
    assert ends(token) > time.time() + 3500
    [asked] = service_account
    assertion = asked.rpartition("assertion=")[2].partition("&")[0]
    claims = json.loads(base64.urlsafe_b64decode(assertion.split(".")[1] + "=="))
    assert claims["target_audience"] == "https://region-project.cloudfunctions.net/jobs"


def test_without_credentials_the_error_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
    with pytest.raises(AsyncparError, match=r"no identity token to be had for https://f: .* or pass token="):
        google_token("https://f")


def test_without_google_auth_the_error_says_what_to_install():
    program = (
        "import sys; sys.modules['google.auth'] = None\n"
        "from asyncpar_gcf.identity import google_token; google_token('https://f')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "install google-auth with pip install 'asyncpar[gcf]', or pass token=" in done.stderr
