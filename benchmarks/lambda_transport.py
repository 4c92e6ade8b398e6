"""How many invocations a second one process can send, against a server that answers at once.

    python -m benchmarks.lambda_transport                     # some minutes
    python -m benchmarks.lambda_transport --rounds 1 --seconds 0.5

Every measurement is a fresh process, in random order; a ratio is of the same round, and the median of these is printed.
The client is one process on uvloop with 50 requests at a time, signed; the server is a bare protocol in another.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime as dt
import ipaddress
import json
import os
import random
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

AT_ONCE = 50
PAYLOAD = b'{"a":1}'
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 4\r\nX-Amz-Executed-Version: $LATEST\r\n\r\nnull"
TARGETS = {"http": 12.0, "https": 8.0}
KINDS = ("aiobotocore", "asyncpar over aiobotocore", "asyncpar", "asyncpar (null)")


# The server


class NullLambda(asyncio.Protocol):
    """Reads requests with a length, and answers each with null."""

    def connection_made(self, transport):
        self.transport, self.buffer = transport, b""

    def data_received(self, data):
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            head = self.buffer[:end].lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15 :].partition(b"\r\n")[0]) if at >= 0 else 0
            if len(self.buffer) < end + 4 + length:
                return
            self.buffer = self.buffer[end + 4 + length :]
            self.transport.write(ANSWER)


async def serve(folder):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(Path(folder, "both.pem"))
    loop = asyncio.get_running_loop()
    plain = await loop.create_server(NullLambda, "127.0.0.1", 0)
    secure = await loop.create_server(NullLambda, "127.0.0.1", 0, ssl=context)
    print(*(server.sockets[0].getsockname()[1] for server in (plain, secure)), flush=True)
    await asyncio.to_thread(sys.stdin.read)  # until the benchmark ends
    plain.close()
    secure.close()


def make_certificate(path):
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .sign(key, hashes.SHA256())
    )
    formats = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    path.write_bytes(key.private_bytes(*formats) + made.public_bytes(serialization.Encoding.PEM))


# The clients


async def open_client(kind, url):
    """A function that invokes, and one that closes."""
    from asyncpar_lambda.sigv4 import Credentials

    credentials = Credentials("key", "secret")
    if kind == "aiobotocore":  # as its documentation shows, without repeats
        from aiobotocore.config import AioConfig
        from aiobotocore.session import get_session

        config = AioConfig(max_pool_connections=AT_ONCE, retries={"total_max_attempts": 1})
        context = get_session().create_client(
            "lambda", region_name="us-east-1", endpoint_url=url, config=config,
            aws_access_key_id="key", aws_secret_access_key="secret",
        )  # fmt: skip
        client = await context.__aenter__()

        async def invoke():
            answer = await client.invoke(FunctionName="job", Payload=PAYLOAD)
            return await answer["Payload"].read()

        return invoke, lambda: context.__aexit__(None, None, None)
    if kind == "asyncpar over aiobotocore":
        from asyncpar_lambda.transport.aio import AiobotocoreTransport

        transport = await AiobotocoreTransport.open(
            "job",
            seconds=60,
            connections=AT_ONCE,
            region="us-east-1",
            endpoint_url=url,
            credentials=credentials,
        )
    else:
        from asyncpar_lambda.transport.fast import FastTransport
        from asyncpar_lambda.transport.identity import FixedIdentity

        transport = FastTransport(url, "job", "us-east-1", FixedIdentity(credentials), seconds=60)

    async def send():
        return (await transport.invoke(PAYLOAD)).body

    return send, transport.aclose


async def measure(kind, url, seconds):
    invoke, close = await open_client(kind, url)

    async def work(until):
        count = 0
        while time.perf_counter() < until:
            if await invoke() != b"null":
                raise AssertionError("a wrong answer")
            count += 1
        return count

    await asyncio.gather(*[work(time.perf_counter() + 0.3) for _ in range(AT_ONCE)])
    began, cpu = time.perf_counter(), time.process_time()
    counts = await asyncio.gather(*[work(began + seconds) for _ in range(AT_ONCE)])
    wall, cpu = time.perf_counter() - began, time.process_time() - cpu
    await close()
    print(json.dumps({"rate": sum(counts) / wall, "cpu": cpu / sum(counts)}))


# The benchmark


def run_child(folder, kind, url, seconds):
    command = [
        sys.executable,
        "-m",
        "benchmarks.lambda_transport",
        "--child",
        kind,
        url,
        "--seconds",
        str(seconds),
    ]
    environment = {**os.environ, "AWS_CA_BUNDLE": str(Path(folder, "both.pem"))}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def run_rounds(rounds, seconds):
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        make_certificate(Path(folder, "both.pem"))
        command = [sys.executable, "-m", "benchmarks.lambda_transport", "--serve", folder]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
            ports = dict(zip(TARGETS, server.stdout.readline().split(), strict=True))
            for number in range(rounds):
                jobs = [(scheme, kind) for scheme in TARGETS for kind in KINDS]
                random.shuffle(jobs)
                for scheme, kind in jobs:
                    got = run_child(folder, kind, f"{scheme}://127.0.0.1:{ports[scheme]}", seconds)
                    found.setdefault((scheme, kind), []).append(got)
                    print(f"round {number + 1}: {scheme:5} {kind:26} {got['rate']:8,.0f}/s", file=sys.stderr)
            server.stdin.close()
    return found


def show(found):
    print(
        "| over | client | invocations a second | CPU of one | beside aiobotocore | its CPU over ours | goal |"
    )
    print("|---|---|---|---|---|---|---|")
    for scheme, target in TARGETS.items():
        base = found[scheme, "aiobotocore"]
        for kind in KINDS:
            mine = found[scheme, kind]
            rate = statistics.median(one["rate"] for one in mine)
            cpu = statistics.median(one["cpu"] for one in mine)
            ratio = statistics.median(a["rate"] / b["rate"] for a, b in zip(mine, base, strict=True))
            cheaper = statistics.median(b["cpu"] / a["cpu"] for a, b in zip(mine, base, strict=True))
            goal = ""
            if kind == "asyncpar":
                goal = f"{target:g} times, {'met' if ratio >= target else 'not met'}"
            print(
                f"| {scheme} | {kind} | {rate:,.0f} | {cpu * 1e6:,.0f} us | {ratio:.1f} | {cheaper:.1f} | {goal} |"
            )


def main():
    import uvloop

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        uvloop.run(serve(options.serve))
    elif options.child:
        uvloop.run(measure(*options.child, options.seconds))
    else:
        show(run_rounds(options.rounds, options.seconds))


if __name__ == "__main__":
    main()
