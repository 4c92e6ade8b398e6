"""Invocations on the wire: both transports against a server of ours, which does what AWS's may do."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import ipaddress
import json
import socketserver
import ssl
import threading

import pytest

pytest.importorskip("aiobotocore", reason="needs the extra 'lambda'")

from botocore.credentials import Credentials as TheirCredentials
from botocore.credentials import RefreshableCredentials
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncpar.errors import AsyncparError
from asyncpar_lambda.sigv4 import Credentials
from asyncpar_lambda.transport import Reply, TransportError
from asyncpar_lambda.transport.aio import AiobotocoreTransport
from asyncpar_lambda.transport.fast import FastTransport
from asyncpar_lambda.transport.http import BadReplyError, Client, Parser
from asyncpar_lambda.transport.identity import BotocoreIdentity, FixedIdentity, look_around
from tests.waiting import until

CREDENTIALS = Credentials("AKID", "secret", "token")
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nx-amz-executed-version: 7\r\n\r\n42"


def reply(status, body=b"", **headers):
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status} X\r\ncontent-length: {len(body)}\r\n{lines}\r\n".encode() + body


class Server:
    """Answers each request as its script says: bytes, or one of the words below. Keeps what it was asked."""

    def __init__(self, *script):
        self.script = list(script)
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.connections = self.ended = 0

    async def __aenter__(self):
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_):
        self.server.close()
        for task in [t for t in asyncio.all_tasks() if getattr(t.get_coro(), "__name__", "") == "serve"]:
            task.cancel()
            await asyncio.wait([task])
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.server.wait_closed(), 1)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    async def serve(self, reader, writer):
        self.connections += 1
        try:
            while await self.answer(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()
            self.ended += 1

    async def answer(self, reader, writer):
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in head[1:-2])}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        self.requests.append((head[0], headers, body))
        answer = self.script.pop(0) if self.script else OK
        if answer == "hang":
            await asyncio.sleep(1000)
        if answer == "lose":
            return False
        if answer == "half":
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nabc")
            await writer.drain()
            return False
        if answer == "say goodbye":
            writer.write(OK)
            await writer.drain()
            return False
        writer.write(answer)
        await writer.drain()
        return True


@contextlib.asynccontextmanager
async def opened(kind, url, seconds=50.0, context=None):
    if kind == "fast":
        transport = FastTransport(
            url, "job:live", "eu-central-1", FixedIdentity(CREDENTIALS), seconds=seconds, context=context
        )
    else:
        transport = await AiobotocoreTransport.open(
            "job:live", seconds=seconds, connections=10, region="eu-central-1", endpoint_url=url,
            credentials=CREDENTIALS,
        )  # fmt: skip
    try:
        yield transport
    finally:
        await transport.aclose()


both = pytest.mark.parametrize("kind", ["fast", "aiobotocore"])


# What both do


@both
async def test_an_invocation_is_a_signed_post_with_its_payload(kind):
    async with Server() as server, opened(kind, server.url) as transport:
        answer = await transport.invoke(b'{"a": 1}', tail=True)
    assert (answer.status, answer.body, answer.headers["x-amz-executed-version"]) == (200, b"42", "7")
    line, headers, body = server.requests[0]
    assert line == "POST /2015-03-31/functions/job%3Alive/invocations HTTP/1.1"
    assert body == b'{"a": 1}'
    assert headers["x-amz-log-type"] == "Tail"
    assert headers["x-amz-security-token"] == "token"
    assert headers["authorization"].startswith("AWS4-HMAC-SHA256 Credential=AKID/")
    assert "/eu-central-1/lambda/aws4_request" in headers["authorization"]


@both
async def test_a_throttle_is_a_reply_with_its_reason(kind):
    body = json.dumps({"Reason": "CallerRateLimitExceeded", "message": "Rate Exceeded."}).encode()
    throttle = reply(429, body, x_amzn_ErrorType="TooManyRequestsException", retry_after="3")
    async with Server(throttle) as server, opened(kind, server.url) as transport:
        answer = await transport.invoke(b"{}")
    assert answer.status == 429
    assert json.loads(answer.body)["Reason"] == "CallerRateLimitExceeded"
    assert json.loads(answer.body)["message"] == "Rate Exceeded."
    assert answer.headers["retry-after"] == "3"
    assert answer.headers["x-amzn-errortype"] == "TooManyRequestsException"


@both
async def test_an_error_of_the_service_is_a_reply_and_is_not_repeated(kind):
    error = reply(500, b'{"message": "internal"}', x_amzn_ErrorType="ServiceException")
    async with Server(error) as server, opened(kind, server.url) as transport:
        assert (await transport.invoke(b"{}")).status == 500
    assert len(server.requests) == 1


@both
async def test_a_functions_error_is_a_reply_with_its_header(kind):
    failed = reply(200, b'{"errorType": "Runtime.ExitError"}', x_amz_function_error="Unhandled")
    async with Server(failed) as server, opened(kind, server.url) as transport:
        answer = await transport.invoke(b"{}")
    assert answer.headers["x-amz-function-error"] == "Unhandled"
    assert json.loads(answer.body) == {"errorType": "Runtime.ExitError"}


@both
@pytest.mark.parametrize("fault", ["lose", "half"])
async def test_a_connection_lost_after_sending_may_have_run(kind, fault):
    async with Server(fault) as server, opened(kind, server.url) as transport:
        with pytest.raises(TransportError) as caught:
            await transport.invoke(b"{}")
        assert caught.value.sent
        assert len(server.requests) == 1  # sent once
        assert (await transport.invoke(b"{}")).body == b"42"


@both
async def test_no_connection_means_that_nothing_was_sent(kind):
    async with Server() as server:
        url = server.url
    async with opened(kind, url) as transport:
        with pytest.raises(TransportError) as caught:
            await transport.invoke(b"{}")
    assert not caught.value.sent


@both
async def test_no_answer_in_time_may_have_run(kind):
    async with Server("hang") as server, opened(kind, server.url, seconds=0.5) as transport:
        with pytest.raises(TransportError) as caught:
            await transport.invoke(b"{}")
        assert caught.value.sent
        await until(lambda: len(server.requests) == 1)


@both
async def test_invocations_at_the_same_time_have_a_connection_each_and_keep_it(kind):
    async with Server() as server, opened(kind, server.url) as transport:
        for _ in range(3):
            answers = await asyncio.gather(*[transport.invoke(b"{}") for _ in range(5)])
            assert [answer.body for answer in answers] == [b"42"] * 5
    assert server.connections == 5


@both
async def test_large_payloads_and_answers_pass(kind):
    big = b'"' + b"x" * 5_000_000 + b'"'
    async with Server(reply(200, big)) as server, opened(kind, server.url) as transport:
        assert (await transport.invoke(big)).body == big
        assert server.requests[0][2] == big


# What ours does


async def test_an_answer_that_was_given_up_does_not_reach_the_next_request():
    async with Server("hang", reply(200, b"second")) as server, opened("fast", server.url) as transport:
        task = asyncio.create_task(transport.invoke(b"{}"))
        while not server.requests:
            await asyncio.sleep(0.005)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await transport.invoke(b"{}")).body == b"second"
    assert server.connections == 2


async def test_a_connection_that_the_server_closed_is_not_used_again():
    async with Server("say goodbye") as server, opened("fast", server.url) as transport:
        await transport.invoke(b"{}")
        await until(lambda: server.ended == 1)
        for _ in range(10):  # until the client has heard of it, which is at its next look
            await asyncio.sleep(0.001)
        await transport.invoke(b"{}")
    assert server.connections == 2


async def test_a_reply_that_asks_for_it_closes_the_connection():
    closing = reply(200, b"1", connection="close")
    async with Server(closing) as server, opened("fast", server.url) as transport:
        await transport.invoke(b"{}")
        await transport.invoke(b"{}")
    assert server.connections == 2


async def test_what_is_no_http_is_an_error_that_shows_it():
    async with Server(b"SSH-2.0-OpenSSH\r\n\r\n") as server, opened("fast", server.url) as transport:
        with pytest.raises(TransportError, match=r"not HTTP/1\.1: 'SSH-2.0-OpenSSH'"):
            await transport.invoke(b"{}")


async def test_a_closed_client_says_so():
    async with Server() as server:
        client = Client(server.url)
        assert (await client.request("GET", "/", {})).body == b"42"
        await client.aclose()
        with pytest.raises(TransportError, match="are closed"):
            await client.request("GET", "/", {})


def test_an_endpoint_is_a_url():
    async def make():
        Client("lambda.amazonaws.com")

    with pytest.raises(ValueError, match="such as https://host"):
        asyncio.run(make())


def certificate(folder):
    """A key and a certificate for 127.0.0.1 that signs itself."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(names, critical=False)
        .sign(key, hashes.SHA256())
    )
    path = folder / "both.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        + made.public_bytes(serialization.Encoding.PEM)
    )
    return path


@pytest.fixture(scope="module")
def pem(tmp_path_factory):
    return certificate(tmp_path_factory.mktemp("tls"))


class SecureServer(socketserver.ThreadingTCPServer):
    """Answers over TLS, from a thread: asyncio complains of a handshake that the other side refuses."""

    daemon_threads, block_on_close = False, True

    def __init__(self, pem):
        super().__init__(("127.0.0.1", 0), SecureHandler)
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.context.load_cert_chain(pem)


class SecureHandler(socketserver.BaseRequestHandler):
    def handle(self):
        with (
            contextlib.suppress(OSError),
            self.server.context.wrap_socket(self.request, server_side=True) as stream,
        ):
            while stream.recv(100_000):
                stream.sendall(OK)


@pytest.fixture
def secure(pem):
    with SecureServer(pem) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"https://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


async def test_tls_is_checked(secure, pem):
    url = secure
    distrusts = await asyncio.to_thread(ssl.create_default_context)
    async with opened("fast", url, context=distrusts) as transport:
        with pytest.raises(TransportError, match="CERTIFICATE_VERIFY_FAILED") as caught:
            await transport.invoke(b"{}")
    assert not caught.value.sent
    trusts = await asyncio.to_thread(ssl.create_default_context, cafile=pem)
    async with opened("fast", url, context=trusts) as transport:
        answers = await asyncio.gather(*[transport.invoke(b"{}") for _ in range(5)])
    assert [answer.body for answer in answers] == [b"42"] * 5


# The parser


def fed(data, cuts, **options):
    parser = Parser(**options)
    result = None
    for begin, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
        result = parser.feed(data[begin:end]) if begin != end else result
    return result or parser.end()


@settings(max_examples=200, deadline=None)
@given(body=st.binary(max_size=60), chunked=st.booleans(), early=st.booleans(), data=st.data())
def test_a_response_is_the_same_however_it_is_cut(body, chunked, early, data):
    if chunked:
        parts = [body[i : i + 7] for i in range(0, len(body), 7)]
        coded = b"".join(b"%x;note=1\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
        raw = b"HTTP/1.1 201 Made\r\nTransfer-Encoding: chunked\r\nX-Word:  yes \r\n\r\n" + coded
    else:
        raw = b"HTTP/1.1 201 Made\r\nX-Word:  yes \r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    raw = b"HTTP/1.1 100 Continue\r\n\r\n" * early + raw
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=5)))
    answer = fed(raw, cuts)
    assert (answer.status, answer.body, answer.headers["x-word"]) == (201, body, "yes")


def test_a_body_without_length_ends_with_the_connection():
    assert fed(b"HTTP/1.1 200 OK\r\n\r\nall of it", [22]).body == b"all of it"


def test_replies_without_a_body():
    assert fed(b"HTTP/1.1 204 No Content\r\n\r\n", []) == Reply(204, {}, b"")
    assert fed(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n", [], head_only=True).body == b""


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n", "a body of '-1' bytes"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 999999999999\r\n\r\n", "at most 268435456"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", "a chunk without a size"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nffffffffff\r\n", "more than"),
        (b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 20_000, "a head of more than"),
        (b"ICY 200 OK\r\n\r\n", "not HTTP/1.1"),
    ],
)
def test_bad_replies_are_refused(raw, message):
    with pytest.raises(BadReplyError, match=message):
        Parser().feed(raw)


# Credentials


async def test_credentials_are_renewed_before_they_expire_without_waiting():
    renewed = []

    def renew():
        renewed.append(1)
        expiry = dt.datetime.now(dt.UTC) + dt.timedelta(hours=1)
        return {
            "access_key": f"AKID{len(renewed)}", "secret_key": "s", "token": "t", "expiry_time": expiry.isoformat()
        }  # fmt: skip

    soon = dt.datetime.now(dt.UTC) + dt.timedelta(minutes=12)  # botocore renews at 15
    source = RefreshableCredentials("AKID0", "s", "t", soon, renew, "test")
    identity = BotocoreIdentity(source)
    first = await identity.credentials()  # it waits at the first use: anything later might be too late
    assert first.access_key == "AKID1"
    assert (await identity.credentials()).access_key == "AKID1"
    assert renewed == [1]
    await identity.aclose()


async def test_static_credentials_are_asked_for_once():
    identity = BotocoreIdentity(TheirCredentials("AKID", "secret"))
    assert await identity.credentials() is await identity.credentials()
    await identity.aclose()


async def test_credentials_that_cannot_be_renewed_say_why_and_are_tried_again():
    calls = []

    def renew():
        calls.append(1)
        if len(calls) == 1:
            raise OSError("no metadata service")
        expiry = dt.datetime.now(dt.UTC) + dt.timedelta(hours=1)
        return {"access_key": "AKID", "secret_key": "s", "token": "t", "expiry_time": expiry.isoformat()}

    past = dt.datetime.now(dt.UTC) - dt.timedelta(hours=1)
    identity = BotocoreIdentity(RefreshableCredentials("old", "s", "t", past, renew, "test"))
    with pytest.raises(OSError, match="no metadata service"):
        await identity.credentials()
    assert (await identity.credentials()).access_key == "AKID"
    await identity.aclose()


@pytest.fixture
def bare(monkeypatch, tmp_path):
    """An environment without AWS settings."""
    import os

    for name in [name for name in os.environ if name.startswith("AWS_") or name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return monkeypatch


def test_what_is_missing_is_named(bare):
    with pytest.raises(AsyncparError, match="no AWS region is set: pass region="):
        look_around(None, None, None)
    with pytest.raises(AsyncparError, match="no AWS credentials were found: set AWS_PROFILE"):
        look_around("eu-central-1", None, None)
    with pytest.raises(AsyncparError, match=r"mine.*aws configure --profile"):
        look_around("eu-central-1", "mine", None)


def test_endpoints_credentials_and_proxies_come_from_the_environment(bare):
    bare.setenv("AWS_REGION", "eu-west-1")  # which botocore itself does not read
    bare.setenv("AWS_ACCESS_KEY_ID", "AKID")
    bare.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    around = look_around(None, None, None)
    assert around.region == "eu-west-1"
    assert around.lambda_endpoint == "https://lambda.eu-west-1.amazonaws.com"
    assert around.s3_endpoint == "https://s3.eu-west-1.amazonaws.com"
    assert not around.proxy
    assert asyncio.run(around.identity.credentials()) == Credentials("AKID", "secret")
    bare.setenv("HTTPS_PROXY", "http://proxy:3128")
    assert look_around(None, None, None).proxy
    bare.setenv("AWS_ENDPOINT_URL_LAMBDA", "http://127.0.0.1:4566")
    assert look_around(None, None, None).lambda_endpoint == "http://127.0.0.1:4566"
