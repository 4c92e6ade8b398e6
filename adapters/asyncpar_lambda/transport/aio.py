"""The Invoke API over aiobotocore: slower, and at home behind proxies."""

from __future__ import annotations

import asyncio
import io
import json
from typing import Any

from asyncpar_lambda.sigv4 import Credentials
from asyncpar_lambda.transport import Reply, TransportError


class AiobotocoreTransport:
    """Invokes one function with aiobotocore's client. Make it with ``open``.

    botocore's own repeats are off: with its defaults an invocation that takes longer than a minute is sent again, and
    runs again (https://github.com/boto/boto3/issues/1104).
    """

    def __init__(self, context: Any, client: Any, function: str) -> None:
        self._context, self._client, self._function = context, client, function

    @classmethod
    async def open(
        cls,
        function: str,
        *,
        seconds: float,
        connections: int,
        region: str | None = None,
        profile: str | None = None,
        endpoint_url: str | None = None,
        credentials: Credentials | None = None,
    ) -> AiobotocoreTransport:
        """Resolve credentials and region and open a client.

        :param seconds: how long an invocation may take: the function's timeout and a margin
        :param connections: at most so many invocations at the same time
        """
        from aiobotocore.config import AioConfig
        from aiobotocore.session import AioSession

        config = AioConfig(
            max_pool_connections=connections,
            read_timeout=seconds,
            connect_timeout=10,
            parameter_validation=False,  # there is nothing of the user in them
            retries={"total_max_attempts": 1},
        )
        given: dict[str, Any] = (
            {}
            if credentials is None
            else {
                "aws_access_key_id": credentials.access_key,
                "aws_secret_access_key": credentials.secret_key,
                "aws_session_token": credentials.token,
            }
        )
        context: Any = AioSession(profile=profile).create_client(
            "lambda", region_name=region, endpoint_url=endpoint_url, config=config, **given
        )
        # A third of a second of reading and parsing files, in a thread: nothing of the client belongs to a loop before
        # its first use.
        client = await asyncio.to_thread(asyncio.run, _enter(context))
        return cls(context, client, function)

    async def invoke(self, payload: bytes, *, tail: bool = False) -> Reply:
        """See ``Transport.invoke``."""
        from aiohttp import ClientError as StreamError
        from botocore.exceptions import (
            ClientError,
            ConnectTimeoutError,
            EndpointConnectionError,
            HTTPClientError,
        )

        extra = {"LogType": "Tail"} if tail else {}
        content: Any = (
            payload if len(payload) < 1_000_000 else io.BytesIO(payload)
        )  # aiohttp warns of large bytes
        try:
            answer = await self._client.invoke(FunctionName=self._function, Payload=content, **extra)
            async with answer["Payload"] as stream:
                body: bytes = await stream.read()
        except ClientError as error:
            return _refusal(error)
        except (EndpointConnectionError, ConnectTimeoutError) as error:
            raise TransportError(str(error), sent=False) from error
        except (HTTPClientError, StreamError, OSError) as error:
            raise TransportError(str(error), sent=True) from error
        about = answer["ResponseMetadata"]
        return Reply(about["HTTPStatusCode"], about["HTTPHeaders"], body)

    async def aclose(self) -> None:
        """Close every connection."""
        await self._context.__aexit__(None, None, None)


async def _enter(context: Any) -> Any:
    return await context.__aenter__()


def _refusal(error: Any) -> Reply:
    """An error of the service as the reply that it was."""
    about = error.response.get("ResponseMetadata", {})
    inside = {
        name: value for name, value in error.response.items() if name not in ("ResponseMetadata", "Error")
    }
    inside.setdefault("message", error.response.get("Error", {}).get("Message", ""))
    headers = dict(about.get("HTTPHeaders", {}))
    headers.setdefault("x-amzn-errortype", error.response.get("Error", {}).get("Code", ""))
    return Reply(about.get("HTTPStatusCode", 500), headers, json.dumps(inside, default=str).encode())
