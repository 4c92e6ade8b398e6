"""Who invokes, and where: credentials and region as botocore finds them (environment, files, SSO, roles, metadata).

botocore blocks: it reads files and asks servers. So everything of it runs in a thread.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

from asyncpar.errors import AsyncparError
from asyncpar_lambda.sigv4 import Credentials

REGION = "AWS_REGION"
"""The environment variable that AWS's other clients read too; botocore only reads AWS_DEFAULT_REGION."""
CHECK_SECONDS = 5.0
"""How often to look whether credentials are about to expire; botocore renews them 15 minutes before."""


class FixedIdentity:
    """Credentials that never change: the local Lambda's, and those of tests."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials

    async def credentials(self) -> Credentials:
        """Those."""
        return self._credentials


class BotocoreIdentity:
    """Credentials from botocore's chain, renewed in a thread before they expire.

    :param source: ``botocore.credentials.Credentials``, refreshable or not
    """

    def __init__(self, source: Any) -> None:
        self._source = source
        self._frozen: Credentials | None = None
        self._checked = float("-inf")
        self._renewal: asyncio.Task[None] | None = None
        self._refreshable = hasattr(source, "refresh_needed")

    async def credentials(self) -> Credentials:
        """Credentials that are good now. Waits only at the first use, and when they have run out.

        :raises botocore.exceptions.BotoCoreError: they could not be renewed
        """
        now = asyncio.get_running_loop().time()
        if self._frozen is not None and (not self._refreshable or now - self._checked < CHECK_SECONDS):
            return self._frozen
        self._checked = now
        if self._frozen is None or self._source.refresh_needed():
            if self._renewal is None or self._renewal.done():
                self._renewal = asyncio.create_task(self._renew(), name="asyncpar: renew AWS credentials")
            if self._frozen is None or self._source.refresh_needed(0):
                self._checked = float("-inf")
                await asyncio.shield(self._renewal)
        assert self._frozen is not None
        return self._frozen

    async def _renew(self) -> None:
        frozen = await asyncio.to_thread(self._source.get_frozen_credentials)
        self._frozen = Credentials(frozen.access_key, frozen.secret_key, frozen.token)

    async def aclose(self) -> None:
        """Wait for a renewal that is under way."""
        if self._renewal is not None:
            await asyncio.wait([self._renewal])


class Surroundings:
    """What botocore says of this account's place: region, endpoints, credentials, proxy.

    :ivar lambda_endpoint: where to invoke
    :ivar s3_endpoint: where objects are; the bucket goes before its host, or into the path (``s3_by_path``)
    :ivar proxy: whether requests to Lambda have to go through a proxy
    """

    def __init__(
        self, region: str, lambda_endpoint: str, s3_endpoint: str, identity: BotocoreIdentity, proxy: bool
    ) -> None:
        self.region, self.identity, self.proxy = region, identity, proxy
        self.lambda_endpoint, self.s3_endpoint = lambda_endpoint, s3_endpoint


def look_around(region: str | None, profile: str | None, endpoint_url: str | None) -> Surroundings:
    """Ask botocore. Blocks, for tenths of a second or, where roles are to be assumed, for more.

    :raises AsyncparError: there is no region or no credentials; the message says where to put them
    """
    from botocore.exceptions import NoRegionError, ProfileNotFound
    from botocore.session import Session
    from botocore.utils import get_environ_proxies

    session = Session(profile=profile)
    region = region or os.environ.get(REGION)
    try:
        place = session.create_client("lambda", region_name=region, endpoint_url=endpoint_url).meta
        objects = session.create_client("s3", region_name=region, endpoint_url=endpoint_url).meta
        source = session.get_credentials()
    except NoRegionError:
        raise AsyncparError(
            "no AWS region is set: pass region=, or write it into the settings of the command; set AWS_REGION; or run "
            "'aws configure'"
        ) from None
    except ProfileNotFound as error:
        raise AsyncparError(
            f"{error}: pass another profile=, or add it with 'aws configure --profile'"
        ) from None
    if source is None:
        raise AsyncparError(
            "no AWS credentials were found: set AWS_PROFILE or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
            "or run 'aws configure' (LambdaPool.local(...) needs none)"
        )
    proxy = bool(get_environ_proxies(place.endpoint_url).get(place.endpoint_url.partition("://")[0]))
    return Surroundings(
        place.region_name, place.endpoint_url, objects.endpoint_url, BotocoreIdentity(source), proxy
    )
