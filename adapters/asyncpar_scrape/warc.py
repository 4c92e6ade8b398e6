"""What was fetched, as a WARC 1.1 file: appended to by one thread, one gzip member for each record."""

from __future__ import annotations

import asyncio
import fcntl
import io
import os
import zlib
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asyncpar_scrape.answers import Wire

RENAMED = ("content-encoding", "transfer-encoding", "content-length")
"""Headers of a body as it came. It is kept decompressed and in one piece, and they as X-Archive-Orig-…"""
PIECE = 1 << 20


class WarcError(OSError):
    """The WARC file cannot be used or written."""


class WarcFile:
    """A file to append to.

    :arg agent: what the requests say in User-Agent
    :raises ImportError: the extra ``warc`` is not installed
    """

    def __init__(self, path: str | os.PathLike[str], agent: str) -> None:
        if find_spec("warcio") is None:
            raise ImportError("warc= needs warcio: pip install 'asyncpar[warc]'")
        self.path, self._agent = Path(path), agent
        self._fd = -1
        self._size = 0
        self._thread: ThreadPoolExecutor | None = None

    async def open(self) -> None:
        """Cut off what a killed program left unfinished, and write a warcinfo record.

        :raises WarcError: another fetcher writes to it, or it is no file of gzip members
        """
        self._thread = ThreadPoolExecutor(1, "asyncpar-warc")
        try:
            await self._run(self._open)
        except BaseException:  # cancelled, too: the thread must end
            await self.close()
            raise

    async def write(self, url: str, wire: Wire, body: bytes) -> None:
        """Append a request and its response; returns when they are with the system, so who fetches waits for the disk.

        :raises WarcError: they cannot be written; the file ends with the record before
        """
        await self._run(self._write_pair, url, wire, body)

    async def close(self) -> None:
        """Write what was begun, and let others write."""
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.submit(self._close)
            await asyncio.to_thread(thread.shutdown)

    async def _run(self, call: Any, *args: Any) -> None:
        if self._thread is None:
            raise WarcError(f"{self.path} is closed")
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, call, *args)
        except WarcError:
            raise
        except OSError as error:
            raise WarcError(f"{self.path} cannot be written: {error}") from error

    def _open(self) -> None:
        self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._fd)
            self._fd = -1
            raise WarcError(
                f"{self.path} is in use by another fetcher: wait until it has ended, or take another path"
            ) from None
        self._size = self._whole()
        os.ftruncate(self._fd, self._size)
        info = {"software": f"asyncpar/{version('asyncpar')}", "http-header-user-agent": self._agent}
        buffer, writer = self._writer()
        writer.write_record(writer.create_warcinfo_record(self.path.name, info))
        self._append(buffer.getvalue())

    def _whole(self) -> int:
        """Bytes of whole members from the beginning."""
        whole, at, member = 0, 0, zlib.decompressobj(31)
        while piece := os.pread(self._fd, PIECE, at):
            at += len(piece)
            while piece:
                try:
                    member.decompress(piece)
                except zlib.error as error:
                    raise WarcError(
                        f"{self.path} is damaged at byte {whole:,}, or no gzip file: take another path"
                    ) from error
                if not member.eof:
                    break
                piece = member.unused_data
                whole, member = at - len(piece), zlib.decompressobj(31)
        return whole

    def _write_pair(self, url: str, wire: Wire, body: bytes) -> None:
        from warcio.statusandheaders import StatusAndHeaders

        said = {"WARC-IP-Address": wire.peer, "WARC-Truncated": wire.truncated}
        kept = [(f"X-Archive-Orig-{n}" if n.lower() in RENAMED else n, v) for n, v in wire.headers]
        kept.append(("Content-Length", str(len(body))))
        buffer, writer = self._writer()
        response = writer.create_warc_record(
            url,
            "response",
            payload=io.BytesIO(body),
            length=len(body),
            http_headers=StatusAndHeaders(wire.status, kept, protocol=wire.protocol),
            warc_headers_dict={name: value for name, value in said.items() if value},
        )
        request = writer.create_warc_record(
            url,
            "request",
            payload=io.BytesIO(),
            length=0,
            http_headers=StatusAndHeaders(
                f"GET {wire.target} {wire.protocol}", wire.asked, is_http_request=True
            ),
        )
        writer.write_request_response_pair(request, response)
        self._append(buffer.getvalue())

    def _writer(self) -> tuple[io.BytesIO, Any]:
        from warcio.warcwriter import WARCWriter

        buffer = io.BytesIO()
        return buffer, WARCWriter(buffer, gzip=True, warc_version="1.1")

    def _append(self, data: bytes) -> None:
        done = 0
        try:
            while done < len(data):
                done += os.pwrite(self._fd, memoryview(data)[done:], self._size + done)
        except OSError:
            os.ftruncate(self._fd, self._size)
            raise
        self._size += len(data)

    def _close(self) -> None:
        if self._fd >= 0:
            fcntl.flock(self._fd, fcntl.LOCK_UN)  # a forked child may have the descriptor, too
            os.close(self._fd)
            self._fd = -1
