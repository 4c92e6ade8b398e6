"""What a deployment consists of, in AWS's own words. No I/O.

``serverless.yml`` says the same, and a test compares them.

function    runs the worker; ``live`` is the alias that pools ask for
role        of the function: it may write its own log, and nothing else (what it reads and writes in the bucket comes
            with presigned URLs)
log group   of the function
bucket      for what is too large for a request, under ``jobs/<name>/``; it is emptied by a lifecycle rule
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from asyncpar_lambda.settings import Settings

ALIAS = "live"
HANDLER = "asyncpar_lambda.worker.handler"
POLICY_NAME = "log"
FOLLOWS = "the newest"

Properties = dict[str, Any]
Resources = dict[str, Properties]
"""``function``, ``role`` and so on, each with its properties."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where it is deployed.

    :ivar account: its number
    :ivar partition: ``"aws"``, or ``"aws-cn"`` and the like
    """

    account: str
    region: str
    partition: str = "aws"

    def arn(self, service: str, what: str, *, everywhere: bool = False) -> str:
        """Amazon's name of a resource.

        :param everywhere: the service has no regions
        """
        return f"arn:{self.partition}:{service}:{'' if everywhere else self.region}:{self.account}:{what}"


def role_name(settings: Settings, place: Place) -> str:
    """A role is everywhere, so the region is in its name."""
    return f"asyncpar-{settings.name}-{place.region}"


def bucket_name(settings: Settings, place: Place) -> str:
    """A bucket's name is taken in all of AWS, so the account is in it too."""
    return f"asyncpar-{settings.name}-{place.account}-{place.region}"


def log_group(settings: Settings) -> str:
    """The one that Lambda writes to."""
    return f"/aws/lambda/{settings.name}"


def variables(settings: Settings, bucket: Any, code: str, public_key: str) -> dict[str, Any]:
    """Environment variables of the function: the user's, and what the worker and pools read."""
    return {
        **settings.variables,
        "ASYNCPAR_JOB": settings.name,
        "ASYNCPAR_CODE": code,
        "ASYNCPAR_PUBLIC_KEY": public_key,
        "ASYNCPAR_ALLOW": ",".join(settings.allow),
        "ASYNCPAR_FUNCTIONS": settings.functions,
        "ASYNCPAR_BUCKET": bucket,
        "ASYNCPAR_KEEP_DAYS": str(settings.keep_days),
    }


def wanted(settings: Settings, place: Place, code: str, public_key: str) -> Resources:
    """All of it.

    :param code: hash of the package
    :param public_key: in hex
    """
    bucket = bucket_name(settings, place)
    function: Properties = {
        "FunctionName": settings.name,
        "Runtime": settings.target.runtime,
        "Handler": HANDLER,
        "Architectures": [settings.machine],
        "MemorySize": settings.memory,
        "Timeout": settings.timeout,
        "Role": place.arn("iam", f"role/{role_name(settings, place)}", everywhere=True),
        "Environment": {"Variables": variables(settings, bucket, code, public_key)},
    }
    if settings.concurrency is not None:
        function["ReservedConcurrentExecutions"] = settings.concurrency
    return {
        "role": {
            "RoleName": role_name(settings, place),
            "AssumeRolePolicyDocument": trust_policy(),
            "PolicyDocument": worker_policy(settings, place),
        },
        "log group": {"LogGroupName": log_group(settings), "RetentionInDays": settings.log_days},
        "bucket": {
            "BucketName": bucket,
            "LifecycleConfiguration": {"Rules": [lifecycle_rule(settings)]},
            "PublicAccessBlockConfiguration": {
                "BlockPublicAcls": True,
                "BlockPublicPolicy": True,
                "IgnorePublicAcls": True,
                "RestrictPublicBuckets": True,
            },
        },
        "function": function,
        "alias": {"Name": ALIAS, "FunctionVersion": FOLLOWS},
    }


def lifecycle_rule(settings: Settings) -> Properties:
    """What pools leave in the bucket goes after some days, and so does an upload that was given up."""
    return {
        "ID": "asyncpar",
        "Status": "Enabled",
        "Filter": {"Prefix": f"jobs/{settings.name}/"},
        "Expiration": {"Days": settings.keep_days},
        "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 1},
    }


def trust_policy() -> Properties:
    """Only Lambda may take the role."""
    return _policy({"Principal": {"Service": "lambda.amazonaws.com"}, "Action": ["sts:AssumeRole"]})


def worker_policy(settings: Settings, place: Place) -> Properties:
    """What the function may do: write its log."""
    group = place.arn("logs", f"log-group:{log_group(settings)}:*")
    return _policy({"Action": ["logs:CreateLogStream", "logs:PutLogEvents"], "Resource": [group]})


def client_policy(settings: Settings, place: Place) -> Properties:
    """What a program with a ``LambdaPool`` must be allowed, and no more: one alias, one prefix."""
    function = place.arn("lambda", f"function:{settings.name}")
    objects = f"arn:{place.partition}:s3:::{bucket_name(settings, place)}/jobs/{settings.name}/*"
    return _policy(
        {
            "Action": ["lambda:GetFunctionConfiguration", "lambda:InvokeFunction"],
            "Resource": [f"{function}:{ALIAS}"],
        },
        {"Action": ["lambda:GetFunctionConcurrency"], "Resource": [function]},
        {"Action": ["s3:GetObject", "s3:PutObject"], "Resource": [objects]},
    )


def _policy(*statements: Properties) -> Properties:
    return {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", **one} for one in statements]}


# -- for serverless.yml


def for_serverless(settings: Settings, artifact: str, code: str, public_key: str) -> dict[str, Any]:
    """What ``serverless.yml`` reads beside the package.

    A version of a function never changes, so the resource that is one gets another name whenever anything does.
    """
    bucket = {"Fn::Sub": f"asyncpar-{settings.name}-${{AWS::AccountId}}-${{AWS::Region}}"}
    worker = {
        "name": settings.name,
        "runtime": settings.target.runtime,
        "handler": HANDLER,
        "architecture": settings.machine,
        "memorySize": settings.memory,
        "timeout": settings.timeout,
        "reservedConcurrency": settings.concurrency,
        "environment": variables(settings, bucket, code, public_key),
    }
    mark = hashlib.sha256(json.dumps(worker, sort_keys=True).encode()).hexdigest()[:12]
    version = {
        f"Version{mark}": {
            "Type": "AWS::Lambda::Version",
            "Properties": {"FunctionName": {"Ref": "WorkerLambdaFunction"}},
        },
        "LiveAlias": {
            "Type": "AWS::Lambda::Alias",
            "Properties": {
                "Name": ALIAS,
                "FunctionName": {"Ref": "WorkerLambdaFunction"},
                "FunctionVersion": {"Fn::GetAtt": [f"Version{mark}", "Version"]},
            },
        },
    }
    return {
        **worker, "artifact": artifact, "region": settings.region, "logDays": settings.log_days,
        "keepDays": settings.keep_days, "version": {"Resources": version},
    }  # fmt: skip


# -- what would change


def changes(found: dict[str, Properties | None], to: Resources) -> dict[str, list[str] | None]:
    """For each resource that is not as it should be: its changes in words, or ``None`` where it is not there."""
    different: dict[str, list[str] | None] = {}
    for kind, properties in to.items():
        standing = found[kind]
        if standing is None:
            different[kind] = None
        elif lines := list(_compare("", standing, properties)):
            different[kind] = lines
    if "function" in different and found["alias"] is not None:
        different["alias"] = [f"FunctionVersion: {found['alias']['FunctionVersion']} -> a new one"]
    return different


def _compare(path: str, old: Any, new: Any) -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        lines: list[str] = []
        for name in sorted({*old, *new}):
            lines += _compare(f"{path}.{name}" if path else name, old.get(name), new.get(name))
        return lines
    return [] if old == new else [f"{path}: {_short(old)} -> {_short(new)}"]


def _short(value: Any) -> str:
    if value is None:
        return "nothing"
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:12]}…"
