"""Makes, changes and removes a deployment, through boto3. Blocking.

Everything may be done again: what is there as it should be is left alone, and what was begun and broken off is finished.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any

from asyncpar.errors import AsyncparError
from asyncpar_lambda.package import MAX_ZIPPED, Package
from asyncpar_lambda.resources import (
    ALIAS,
    FOLLOWS,
    POLICY_NAME,
    Place,
    Properties,
    Resources,
    bucket_name,
    changes,
    log_group,
    role_name,
)
from asyncpar_lambda.settings import Settings
from asyncpar_lambda.transport.identity import REGION

if TYPE_CHECKING:
    from mypy_boto3_lambda.type_defs import FunctionConfigurationResponseTypeDef

ROLE_SECONDS = 60.0
"""How long it may take until Lambda sees a role that was made."""
SETTINGS = ("Runtime", "Handler", "MemorySize", "Timeout", "Role", "Environment")
"""Of a function: what UpdateFunctionConfiguration changes."""
MISSING = (
    "404", "NoSuchBucket", "NoSuchEntity", "NoSuchLifecycleConfiguration", "NoSuchPublicAccessBlockConfiguration",
    "ResourceNotFoundException",
)  # fmt: skip


class DeployError(AsyncparError):
    """AWS did not do what a deployment needs; the message says what, and what to do."""


@contextlib.contextmanager
def explained() -> Generator[None]:
    """Turn what boto3 raises into errors that tell what to do."""
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, NoRegionError, WaiterError

    try:
        yield
    except NoRegionError:
        raise DeployError(
            "no AWS region is set: write region = into the settings, set AWS_REGION, or run 'aws configure'"
        ) from None
    except NoCredentialsError:
        raise DeployError(
            "no AWS credentials were found: set AWS_PROFILE or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run "
            "'aws configure' ('asyncpar lambda local' needs none)"
        ) from None
    except ClientError as error:
        raise DeployError(_refused(error)) from error
    except (BotoCoreError, WaiterError) as error:
        raise DeployError(f"AWS: {error}") from error


def _refused(error: Any) -> str:
    code, message = _code(error), error.response.get("Error", {}).get("Message", "")
    text = f"AWS refused {error.operation_name}: {code}: {message}"
    if code in ("AccessDenied", "AccessDeniedException", "UnauthorizedOperation"):
        text += ". Deploying needs rights to Lambda, IAM roles, S3 and CloudWatch Logs: ask for them, or take another AWS_PROFILE"
    elif error.operation_name == "HeadBucket" and code == "403":
        text += ". Its name may be somebody else's bucket by now: deploy under another name, or ask for the right to it"
    elif code in (
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidClientTokenId",
        "UnrecognizedClientException",
    ):
        text += ". Log in again ('aws sso login'), or look at AWS_PROFILE"
    return text


class Cloud:
    """One deployment, on AWS or what looks like it.

    :param endpoint_url: of another server, as ``asyncpar lambda local`` prints it; by default what AWS's settings say
    :raises DeployError: no region, no credentials, or AWS does not answer
    """

    def __init__(self, settings: Settings, endpoint_url: str | None = None) -> None:
        import boto3
        from botocore.config import Config

        self.settings = settings
        with explained():
            session = boto3.Session(region_name=settings.region or os.environ.get(REGION))
            options: Any = {"endpoint_url": endpoint_url, "config": Config(retries={"mode": "standard"})}
            self.functions = session.client("lambda", **options)
            self.roles = session.client("iam", **options)
            self.logs = session.client("logs", **options)
            self.objects = session.client("s3", **options)
            identities = session.client("sts", **options)
            account = identities.get_caller_identity()["Account"]
            identities.close()
        region = self.functions.meta.region_name
        self.place = Place(account, region, session.get_partition_for_region(region))
        self.role, self.bucket = role_name(settings, self.place), bucket_name(settings, self.place)
        # A bucket's name can be guessed, and taken by somebody else.
        self.of_bucket: Any = {"Bucket": self.bucket, "ExpectedBucketOwner": account}

    def close(self) -> None:
        """Close the connections."""
        for client in (self.functions, self.roles, self.logs, self.objects):
            client.close()

    # -- what is there

    def read(self) -> dict[str, Properties | None]:
        """Properties of what is there, as ``resources.wanted`` has them; ``None`` for what is not.

        :raises DeployError: a function of this name is not asyncpar's, or AWS refuses
        """
        with explained():
            function = self._read(self._function)
            return {
                "role": self._read(self._role),
                "log group": self._log_group(),
                "bucket": self._read(self._bucket),
                "function": function,
                "alias": self._read(lambda: self._alias(function)),
            }

    def _read(self, get: Callable[[], Properties | None]) -> Properties | None:
        with _missing():
            return get()
        return None

    def _function(self) -> Properties:
        name = self.settings.name
        found = _function_properties(self.functions.get_function_configuration(FunctionName=name))
        if "ASYNCPAR_CODE" not in found["Environment"]["Variables"]:
            raise DeployError(
                f"there is a function {name} that asyncpar has not deployed: take another name, or remove it yourself"
            )
        limits = self.functions.get_function_concurrency(FunctionName=name)
        if "ReservedConcurrentExecutions" in limits:
            found["ReservedConcurrentExecutions"] = limits["ReservedConcurrentExecutions"]
        return found

    def _alias(self, function: Properties | None) -> Properties:
        alias = self.functions.get_alias(FunctionName=self.settings.name, Name=ALIAS)
        serves = self.functions.get_function_configuration(FunctionName=self.settings.name, Qualifier=ALIAS)
        latest = {name: value for name, value in (function or {}).items() if not name.startswith("Reserved")}
        current = _function_properties(serves) == latest and alias["FunctionVersion"] != "$LATEST"
        return {"Name": ALIAS, "FunctionVersion": FOLLOWS if current else alias["FunctionVersion"]}

    def _role(self) -> Properties:
        found = self.roles.get_role(RoleName=self.role)["Role"]
        policy = self._read(
            lambda: _document(
                self.roles.get_role_policy(RoleName=self.role, PolicyName=POLICY_NAME)["PolicyDocument"]
            )
        )
        return {
            "RoleName": self.role,
            "AssumeRolePolicyDocument": _document(found.get("AssumeRolePolicyDocument")),
            "PolicyDocument": policy,
        }

    def _log_group(self) -> Properties | None:
        name = log_group(self.settings)
        groups = self.logs.describe_log_groups(logGroupNamePrefix=name)["logGroups"]
        for group in groups:
            if group.get("logGroupName") == name:
                return {"LogGroupName": name, "RetentionInDays": group.get("retentionInDays")}
        return None

    def _bucket(self) -> Properties:
        name = self.bucket
        self.objects.head_bucket(**self.of_bucket)
        rules = self._read(
            lambda: {"Rules": self.objects.get_bucket_lifecycle_configuration(**self.of_bucket)["Rules"]}
        )
        block = self._read(
            lambda: {
                **self.objects.get_public_access_block(**self.of_bucket)["PublicAccessBlockConfiguration"]
            }
        )
        return {"BucketName": name, "LifecycleConfiguration": rules, "PublicAccessBlockConfiguration": block}

    # -- making it so

    def apply(self, to: Resources, package: Package, say: Callable[[str], None]) -> None:
        """Make everything as it should be.

        :param say: told what is done next
        :raises DeployError: AWS refuses; what was done stays, and the next time goes on from there
        """
        found = self.read()
        different = changes(found, to)
        makers: dict[str, Callable[[Properties, bool], None]] = {
            "role": self._make_role,
            "log group": self._make_log_group,
            "bucket": self._make_bucket,
            "function": lambda properties, new: self._make_function(properties, new, package),
            "alias": self._make_alias,
        }
        with explained():
            for kind in different:
                say(f"{'making' if found[kind] is None else 'changing'} the {kind}")
                makers[kind](to[kind], found[kind] is None)

    def _make_role(self, to: Properties, new: bool) -> None:
        trust = json.dumps(to["AssumeRolePolicyDocument"])
        if new:
            self.roles.create_role(RoleName=self.role, AssumeRolePolicyDocument=trust, Description="asyncpar")
        else:
            self.roles.update_assume_role_policy(RoleName=self.role, PolicyDocument=trust)
        self.roles.put_role_policy(
            RoleName=self.role, PolicyName=POLICY_NAME, PolicyDocument=json.dumps(to["PolicyDocument"])
        )

    def _make_log_group(self, to: Properties, new: bool) -> None:
        if new:
            self.logs.create_log_group(logGroupName=to["LogGroupName"])
        self.logs.put_retention_policy(logGroupName=to["LogGroupName"], retentionInDays=to["RetentionInDays"])

    def _make_bucket(self, to: Properties, new: bool) -> None:
        if new:
            region = self.place.region  # us-east-1 must not be said
            where: Any = (
                {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
            )
            self.objects.create_bucket(Bucket=self.bucket, **where)
        self.objects.put_public_access_block(
            **self.of_bucket, PublicAccessBlockConfiguration=to["PublicAccessBlockConfiguration"]
        )
        self.objects.put_bucket_lifecycle_configuration(
            **self.of_bucket, LifecycleConfiguration=to["LifecycleConfiguration"]
        )

    def _make_function(self, to: Properties, new: bool, package: Package) -> None:
        name = self.settings.name
        code, key = self._code(package)
        settings = {one: to[one] for one in SETTINGS}
        if new:
            self._create(FunctionName=name, Code=code, Architectures=to["Architectures"], **settings)
            self.functions.get_waiter("function_active_v2").wait(FunctionName=name, WaiterConfig={"Delay": 1})
        else:
            # The settings hold the hash of the code and go last: broken off in between, all of it is done again.
            waiter = self.functions.get_waiter("function_updated_v2")
            self.functions.update_function_code(FunctionName=name, Architectures=to["Architectures"], **code)
            waiter.wait(FunctionName=name, WaiterConfig={"Delay": 1})
            self.functions.update_function_configuration(FunctionName=name, **settings)
            waiter.wait(FunctionName=name, WaiterConfig={"Delay": 1})
        if key:
            self.objects.delete_object(**self.of_bucket, Key=key)
        if "ReservedConcurrentExecutions" in to:
            self.functions.put_function_concurrency(
                FunctionName=name, ReservedConcurrentExecutions=to["ReservedConcurrentExecutions"]
            )
        elif not new:
            self.functions.delete_function_concurrency(FunctionName=name)

    def _code(self, package: Package) -> tuple[Any, str]:
        """The package as Lambda's API takes it, and its key in the bucket, if it is too large for a request."""
        if len(package.data) <= MAX_ZIPPED:
            return {"ZipFile": package.data}, ""
        key = f"code/{package.code}.zip"
        self.objects.put_object(**self.of_bucket, Key=key, Body=package.data)
        return {"S3Bucket": self.bucket, "S3Key": key}, key

    def _create(self, **options: Any) -> None:
        """Create the function, as soon as Lambda sees its role."""
        give_up = time.monotonic() + ROLE_SECONDS
        while True:
            try:
                self.functions.create_function(**options)
                return
            except self.functions.exceptions.InvalidParameterValueException as error:
                if "assumed" not in str(error) or time.monotonic() > give_up:
                    raise
            time.sleep(1)

    def _make_alias(self, to: Properties, new: bool) -> None:
        """Publish the function as it is now, and let the alias change over at once."""
        name = self.settings.name
        version = self.functions.publish_version(FunctionName=name)["Version"]
        keep = {"$LATEST", version}
        if new:
            self.functions.create_alias(FunctionName=name, Name=to["Name"], FunctionVersion=version)
        else:
            keep.add(self.functions.get_alias(FunctionName=name, Name=ALIAS)["FunctionVersion"])
            self.functions.update_alias(FunctionName=name, Name=to["Name"], FunctionVersion=version)
        for page in self.functions.get_paginator("list_versions_by_function").paginate(FunctionName=name):
            for old in {one.get("Version", "$LATEST") for one in page["Versions"]} - keep:
                self.functions.delete_function(FunctionName=name, Qualifier=old)

    # -- removing it

    def remove(self, say: Callable[[str], None]) -> None:
        """Remove everything: the function first, so that nothing writes what was removed.

        :raises DeployError: AWS refuses; what was removed is gone, and the next time goes on from there
        """
        found = self.read()
        removers: dict[str, Callable[[], Any]] = {
            "function": lambda: self.functions.delete_function(FunctionName=self.settings.name),
            "log group": lambda: self.logs.delete_log_group(logGroupName=log_group(self.settings)),
            "bucket": self._remove_bucket,
            "role": self._remove_role,
        }
        with explained():
            for kind, remove in removers.items():
                if found[kind] is not None:
                    say(f"removing the {kind}")
                    with _missing():
                        remove()

    def _remove_bucket(self) -> None:
        for page in self.objects.get_paginator("list_objects_v2").paginate(**self.of_bucket):
            keys = [{"Key": one["Key"]} for one in page.get("Contents", []) if "Key" in one]
            if keys:
                self.objects.delete_objects(**self.of_bucket, Delete={"Objects": keys, "Quiet": True})  # type: ignore[typeddict-item]
        self.objects.delete_bucket(**self.of_bucket)

    def _remove_role(self) -> None:
        with _missing():
            self.roles.delete_role_policy(RoleName=self.role, PolicyName=POLICY_NAME)
        self.roles.delete_role(RoleName=self.role)

    # -- what it wrote

    def log(self, minutes: float) -> Iterator[str]:
        """Lines that the function wrote in the last so many minutes.

        :raises DeployError: there is no log group, or AWS refuses
        """
        start = int((time.time() - 60 * minutes) * 1000)
        pages = self.logs.get_paginator("filter_log_events")
        with explained():
            for page in pages.paginate(logGroupName=log_group(self.settings), startTime=start):
                for event in page["events"]:
                    yield event.get("message", "").rstrip()


@contextlib.contextmanager
def _missing() -> Generator[None]:
    """Pass over what is not there."""
    from botocore.exceptions import ClientError

    try:
        yield
    except ClientError as error:
        if _code(error) not in MISSING:
            raise


def _code(error: Any) -> str:
    code: str = error.response.get("Error", {}).get("Code", "")
    return code


def _function_properties(found: FunctionConfigurationResponseTypeDef) -> Properties:
    """Of a function, or of one of its versions."""
    return {
        "FunctionName": found["FunctionName"],
        "Runtime": found.get("Runtime"),
        "Handler": found.get("Handler"),
        "Architectures": found.get("Architectures"),
        "MemorySize": found["MemorySize"],
        "Timeout": found["Timeout"],
        "Role": found["Role"],
        "Environment": {"Variables": found.get("Environment", {}).get("Variables", {})},
    }


def _document(policy: Any) -> Any:
    """A policy, which some servers give as text."""
    return json.loads(policy) if isinstance(policy, str) else policy
