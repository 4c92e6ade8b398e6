"""The slice of AWS's control plane that a deployment uses: Lambda's functions, IAM roles, log groups, identity.

Nothing here judges who asks: the server listens on the loopback interface only.
"""

from __future__ import annotations

import base64
import json
import time
import zipfile
from collections import deque
from collections.abc import Callable
from typing import Any
from uuid import uuid4
from xml.sax.saxutils import escape

from asyncpar_lambda.local.functions import ACCOUNT, Edition, Function, Lambda
from asyncpar_lambda.local.http import Request
from asyncpar_lambda.local.invoke import fail, qualifier_of
from asyncpar_lambda.local.store import Store

KEPT = (
    "Handler", "Runtime", "Role", "Timeout", "MemorySize", "Environment", "Description", "EphemeralStorage",
    "Architectures", "PackageType", "LoggingConfig", "Layers", "TracingConfig",
)  # fmt: skip
DEFAULTS = {
    "Timeout": 3,
    "MemorySize": 128,
    "Description": "",
    "Runtime": "python3.13",
    "PackageType": "Zip",
    "Architectures": ["x86_64"],
    "EphemeralStorage": {"Size": 512},
}
KEPT_REPORTS = 1000
"""Invocations of each function whose output is kept."""
JSON = {"Content-Type": "application/json"}


def reply(request: Request, content: Any, status: int = 200) -> None:
    """A JSON answer."""
    request.answer(status, json.dumps(content).encode(), {**JSON, "x-amzn-RequestId": str(uuid4())})


class Functions:
    """Lambda's REST API, without Invoke."""

    def __init__(self, account: Lambda, store: Store) -> None:
        self.account, self.store = account, store

    def handle(self, request: Request, parts: list[str]) -> None:
        """``parts``: the path, without the version of the API."""
        if parts == ["functions"]:
            if request.method == "POST":
                self.create(request)
            else:
                reply(
                    request,
                    {"Functions": [_configuration(f.latest) for f in self.account.functions.values()]},
                )
        elif parts[0] == "account-settings":
            reply(request, self.limits())
        elif parts[0] == "tags" and len(parts) > 1:
            self.on_tags(request, parts[1])
        elif parts[0] == "functions" and len(parts) > 1:
            self.on_function(request, parts[1], "/".join(parts[2:3]), parts[3:])
        else:
            fail(request, 404, "ResourceNotFoundException", f"not in this slice of Lambda: {request.path}")

    def on_function(self, request: Request, name: str, what: str, rest: list[str]) -> None:
        """What concerns one function."""
        function = self.account.find(name)
        if function is None:
            fail(request, 404, "ResourceNotFoundException", f"Function not found: {name}")
            return
        handlers: dict[str, Callable[[Request, Function, list[str]], None]] = {
            "": self.on_itself,
            "code": self.on_code,
            "configuration": self.on_configuration,
            "versions": self.on_versions,
            "aliases": self.on_aliases,
            "concurrency": self.on_concurrency,
            "policy": self.on_policy,
            "event-invoke-config": self.on_event_config,
        }
        if what not in handlers:
            fail(request, 404, "ResourceNotFoundException", f"not in this slice of Lambda: {request.path}")
            return
        handlers[what](request, function, rest)

    def limits(self) -> dict[str, Any]:
        """GetAccountSettings."""
        most = self.account.concurrency
        free = most - self.account.all_reserved()
        return {
            "AccountLimit": {
                "ConcurrentExecutions": most,
                "UnreservedConcurrentExecutions": free,
                "CodeSizeUnzipped": 262144000,
                "CodeSizeZipped": 52428800,
                "TotalCodeSize": 80530636800,
            },
            "AccountUsage": {"FunctionCount": len(self.account.functions), "TotalCodeSize": 0},
        }

    def create(self, request: Request) -> None:
        """CreateFunction."""
        wanted = json.loads(request.body)
        name = wanted["FunctionName"]
        if name in self.account.functions:
            fail(request, 409, "ResourceConflictException", f"Function already exist: {name}")
            return
        configuration = {**DEFAULTS, **{key: wanted[key] for key in KEPT if key in wanted}}
        try:
            function = Function(name, configuration, self.code(wanted["Code"]), self.account)
        except (KeyError, ValueError, zipfile.BadZipFile):
            fail(request, 400, "InvalidParameterValueException", "Could not unzip uploaded file.")
            return
        function.tags.update(wanted.get("Tags") or {})
        self.account.functions[name] = function
        if wanted.get("Publish"):
            function.publish()
        reply(request, _configuration(function.latest), 201)

    def code(self, wanted: dict[str, Any]) -> bytes:
        """The zip, from the request or the object store."""
        if wanted.get("ZipFile"):
            return base64.b64decode(wanted["ZipFile"])
        return self.store.buckets[wanted["S3Bucket"]][wanted["S3Key"]].data

    def on_itself(self, request: Request, function: Function, _: list[str]) -> None:
        """GetFunction, DeleteFunction."""
        if request.method == "DELETE":
            self.delete(request, function, request.query.get("Qualifier", ""))
            return
        edition = self.edition(request, function)
        if edition is not None:
            concurrency = (
                {} if function.reserved is None else {"ReservedConcurrentExecutions": function.reserved}
            )
            reply(
                request,
                {
                    "Configuration": _configuration(edition),
                    "Code": {"RepositoryType": "S3", "Location": ""},
                    "Tags": function.tags,
                    **({"Concurrency": concurrency} if concurrency else {}),
                },
            )

    def delete(self, request: Request, function: Function, version: str) -> None:
        """DeleteFunction: all of it, or one version."""
        serving = [name for name, alias in function.aliases.items() if alias["FunctionVersion"] == version]
        if not version:
            self.account.remove(function.name)
        elif serving:
            fail(
                request, 409, "ResourceConflictException", f"Unable to delete version: {serving} reference it"
            )
            return
        elif version in function.published:
            function.discard(version)
        request.answer(204)

    def edition(self, request: Request, function: Function) -> Edition | None:
        """What the request's qualifier means; answers if that is nothing."""
        qualifier = request.query.get("Qualifier", "") or qualifier_of(request.parts()[2])
        edition = function.edition(qualifier)
        if edition is None:
            fail(request, 404, "ResourceNotFoundException", f"Function not found: {function.arn}:{qualifier}")
        return edition

    def on_code(self, request: Request, function: Function, _: list[str]) -> None:
        """UpdateFunctionCode."""
        wanted = json.loads(request.body)
        changes = {"Architectures": wanted["Architectures"]} if "Architectures" in wanted else {}
        try:
            function.change(changes, self.code(wanted))
        except (KeyError, ValueError, zipfile.BadZipFile):
            fail(request, 400, "InvalidParameterValueException", "Could not unzip uploaded file.")
            return
        edition = function.publish() if wanted.get("Publish") else function.latest
        reply(request, _configuration(edition))

    def on_configuration(self, request: Request, function: Function, _: list[str]) -> None:
        """GetFunctionConfiguration, UpdateFunctionConfiguration."""
        if request.method == "PUT":
            wanted = json.loads(request.body)
            function.change({key: wanted[key] for key in KEPT if key in wanted})
        edition = self.edition(request, function)
        if edition is not None:
            reply(request, _configuration(edition))

    def on_versions(self, request: Request, function: Function, _: list[str]) -> None:
        """PublishVersion, ListVersionsByFunction."""
        if request.method == "POST":
            reply(request, _configuration(function.publish()), 201)
        else:
            reply(request, {"Versions": [_configuration(edition) for edition in function.editions()]})

    def on_aliases(self, request: Request, function: Function, rest: list[str]) -> None:
        """CreateAlias, GetAlias, UpdateAlias, DeleteAlias, ListAliases."""
        wanted = json.loads(request.body) if request.body else {}
        name = rest[0] if rest else wanted.get("Name", "")
        standing = function.aliases.get(name)
        if request.method == "GET" and not rest:
            reply(request, {"Aliases": list(function.aliases.values())})
        elif request.method == "DELETE":
            function.aliases.pop(name, None)
            request.answer(204)
        elif request.method == "POST" and standing is not None:
            fail(request, 409, "ResourceConflictException", f"Alias already exists: {name}")
        elif request.method != "POST" and standing is None:
            fail(request, 404, "ResourceNotFoundException", f"Cannot find alias arn: {function.arn}:{name}")
        elif "FunctionVersion" in wanted and function.edition(wanted["FunctionVersion"]) is None:
            fail(
                request,
                404,
                "ResourceNotFoundException",
                f"Function not found: {function.arn}:{wanted['FunctionVersion']}",
            )
        else:
            if request.method != "GET":
                made = {
                    **(standing or {}),
                    "Name": name,
                    "AliasArn": f"{function.arn}:{name}",
                    "Description": "",
                }
                made.update({key: wanted[key] for key in ("FunctionVersion", "Description") if key in wanted})
                standing = function.aliases[name] = {**made, "RevisionId": str(uuid4())}
            reply(request, standing, 201 if request.method == "POST" else 200)

    def on_concurrency(self, request: Request, function: Function, _: list[str]) -> None:
        """PutFunctionConcurrency, GetFunctionConcurrency, DeleteFunctionConcurrency."""
        if request.method == "PUT":
            function.reserved = int(json.loads(request.body)["ReservedConcurrentExecutions"])
        elif request.method == "DELETE":
            function.reserved = None
            request.answer(204)
            return
        reply(
            request, {} if function.reserved is None else {"ReservedConcurrentExecutions": function.reserved}
        )

    def on_policy(self, request: Request, function: Function, rest: list[str]) -> None:
        """AddPermission, GetPolicy, RemovePermission."""
        if request.method == "POST":
            function.policy.append(json.loads(request.body))
            reply(request, {"Statement": request.body.decode()}, 201)
        elif request.method == "DELETE":
            function.policy = [one for one in function.policy if [one.get("StatementId")] != rest]
            request.answer(204)
        elif function.policy:
            reply(request, {"Policy": json.dumps({"Statement": function.policy}), "RevisionId": "1"})
        else:
            fail(request, 404, "ResourceNotFoundException", "The resource you requested does not exist.")

    def on_event_config(self, request: Request, function: Function, _: list[str]) -> None:
        """PutFunctionEventInvokeConfig and its like: taken, without effect."""
        if request.method == "DELETE":
            request.answer(204)
            return
        wanted = json.loads(request.body) if request.body else {}
        reply(request, {"FunctionArn": function.arn, "LastModified": time.time(), **wanted})

    def on_tags(self, request: Request, arn: str) -> None:
        """ListTags, TagResource, UntagResource."""
        function = self.account.find(arn)
        if function is None:
            fail(request, 404, "ResourceNotFoundException", f"Function not found: {arn}")
        elif request.method == "GET":
            reply(request, {"Tags": function.tags})
        else:
            if request.method == "POST":
                function.tags.update(json.loads(request.body)["Tags"])
            else:
                function.tags.pop(request.query.get("tagKeys", ""), None)
            request.answer(204)


def _configuration(edition: Edition) -> dict[str, Any]:
    """A function's configuration, as AWS shows it."""
    function = edition.function
    suffix = "" if edition.version == "$LATEST" else f":{edition.version}"
    return {
        "FunctionName": function.name,
        "FunctionArn": function.arn + suffix,
        "Version": edition.version,
        "State": "Active",
        "LastUpdateStatus": "Successful",
        **{key: value for key, value in edition.configuration.items() if key != "Version"},
    }


class Roles:
    """IAM and STS: query requests, XML answers."""

    def __init__(self) -> None:
        self.roles: dict[str, dict[str, Any]] = {}

    def handle(self, request: Request, form: dict[str, str]) -> None:
        """One action."""
        action = form.get("Action", "")
        name = form.get("RoleName", "")
        if action == "GetCallerIdentity":
            content = f"<Account>{ACCOUNT}</Account><Arn>arn:aws:iam::{ACCOUNT}:user/local</Arn><UserId>local</UserId>"
            self.answer(request, action, content)
        elif action == "CreateRole" and name in self.roles:
            self.fail(request, 409, "EntityAlreadyExists", f"Role with name {name} already exists.")
        elif action == "CreateRole":
            self.roles[name] = {
                "trust": form.get("AssumeRolePolicyDocument", ""),
                "inline": {},
                "attached": [],
            }
            self.answer(request, action, self.role(name))
        elif name not in self.roles:
            self.fail(request, 404, "NoSuchEntity", f"The role with name {name} cannot be found.")
        else:
            self.on_role(request, action, name, form)

    def on_role(self, request: Request, action: str, name: str, form: dict[str, str]) -> None:
        """What concerns a role that is there."""
        role = self.roles[name]
        inline, attached = role["inline"], role["attached"]
        policy, arn = form.get("PolicyName", ""), form.get("PolicyArn", "")
        content = ""
        if action == "GetRole":
            content = self.role(name)
        elif action == "PutRolePolicy":
            inline[policy] = form["PolicyDocument"]
        elif action == "GetRolePolicy" and policy in inline:
            content = (
                f"<RoleName>{name}</RoleName><PolicyName>{policy}</PolicyName>"
                f"<PolicyDocument>{escape(inline[policy])}</PolicyDocument>"
            )
        elif action in ("GetRolePolicy", "DeleteRolePolicy") and policy not in inline:
            self.fail(request, 404, "NoSuchEntity", f"The role policy with name {policy} cannot be found.")
            return
        elif action == "DeleteRolePolicy":
            del inline[policy]
        elif action == "ListRolePolicies":
            content = _members("PolicyNames", inline) + "<IsTruncated>false</IsTruncated>"
        elif action == "AttachRolePolicy":
            role["attached"] = [*attached, arn]
        elif action == "DetachRolePolicy":
            role["attached"] = [one for one in attached if one != arn]
        elif action == "ListAttachedRolePolicies":
            rows = [
                f"<PolicyArn>{one}</PolicyArn><PolicyName>{one.split('/')[-1]}</PolicyName>"
                for one in attached
            ]
            content = (
                f"<AttachedPolicies>{''.join(f'<member>{row}</member>' for row in rows)}</AttachedPolicies>"
            )
        elif action == "UpdateAssumeRolePolicy":
            role["trust"] = form["PolicyDocument"]
        elif action == "DeleteRole" and (inline or attached):
            self.fail(request, 409, "DeleteConflict", "Cannot delete entity, must delete policies first.")
            return
        elif action == "DeleteRole":
            del self.roles[name]
        elif action not in ("TagRole", "UntagRole"):
            self.fail(request, 400, "InvalidAction", f"not in this slice of IAM: {action}")
            return
        self.answer(request, action, content)

    def role(self, name: str) -> str:
        """A role, as IAM shows it."""
        return (
            f"<Role><Path>/</Path><RoleName>{name}</RoleName><RoleId>AROA{abs(hash(name)):016d}</RoleId>"
            f"<Arn>arn:aws:iam::{ACCOUNT}:role/{name}</Arn><CreateDate>2026-01-01T00:00:00Z</CreateDate>"
            f"<AssumeRolePolicyDocument>{escape(self.roles[name]['trust'])}</AssumeRolePolicyDocument></Role>"
        )

    def answer(self, request: Request, action: str, content: str) -> None:
        body = (
            f"<{action}Response><{action}Result>{content}</{action}Result>"
            f"<ResponseMetadata><RequestId>{uuid4()}</RequestId></ResponseMetadata></{action}Response>"
        )
        request.answer(200, body.encode(), {"Content-Type": "text/xml"})

    def fail(self, request: Request, status: int, code: str, message: str) -> None:
        body = (
            f"<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code><Message>{escape(message)}</Message></Error>"
            f"<RequestId>{uuid4()}</RequestId></ErrorResponse>"
        )
        request.answer(status, body.encode(), {"Content-Type": "text/xml"})


def _members(tag: str, names: Any) -> str:
    return f"<{tag}>{''.join(f'<member>{escape(name)}</member>' for name in names)}</{tag}>"


class Logs:
    """CloudWatch Logs: groups, their retention, and what the last invocations printed."""

    def __init__(self) -> None:
        self.groups: dict[str, dict[str, Any]] = {}
        self.reports: dict[str, deque[tuple[int, str, bytes]]] = {}

    def keep(self, function: str, stream: str, report: bytes) -> None:
        """Take what an invocation printed; as on AWS, the first one makes the group."""
        name = f"/aws/lambda/{function}"
        if name not in self.groups:
            self.create(name)
        self.reports[name].append((int(time.time() * 1000), stream, report))

    def create(self, name: str) -> None:
        """A new group."""
        self.groups[name] = {"logGroupName": name, "storedBytes": 0, "creationTime": int(time.time() * 1000)}
        self.reports[name] = deque(maxlen=KEPT_REPORTS)

    def handle(self, request: Request, action: str) -> None:
        """One action."""
        wanted = json.loads(request.body or b"{}")
        name = wanted.get("logGroupName", "")
        if action == "CreateLogGroup":
            if name in self.groups:
                self.fail(request, "ResourceAlreadyExistsException", "The specified log group already exists")
                return
            self.create(name)
        elif action == "DescribeLogGroups":
            prefix = wanted.get("logGroupNamePrefix", "")
            reply(request, {"logGroups": [g for n, g in sorted(self.groups.items()) if n.startswith(prefix)]})
            return
        elif name not in self.groups:
            self.fail(request, "ResourceNotFoundException", "The specified log group does not exist.")
            return
        elif action == "PutRetentionPolicy":
            self.groups[name]["retentionInDays"] = wanted["retentionInDays"]
        elif action == "DeleteLogGroup":
            del self.groups[name], self.reports[name]
        elif action == "FilterLogEvents":
            reply(request, {"events": self.events(name, wanted), "searchedLogStreams": []})
            return
        reply(request, {})

    def events(self, name: str, wanted: dict[str, Any]) -> list[dict[str, Any]]:
        """The lines of a group between two times (in ms) that contain the pattern, if there is one."""
        begin, end = wanted.get("startTime", 0), wanted.get("endTime", 1 << 62)
        pattern = wanted.get("filterPattern", "").strip('"')
        return [
            {
                "logStreamName": stream,
                "timestamp": at,
                "ingestionTime": at,
                "message": line,
                "eventId": f"{at}-{number}",
            }
            for at, stream, report in self.reports[name]
            if begin <= at <= end
            for number, line in enumerate(report.decode(errors="replace").splitlines(keepends=True))
            if pattern in line
        ]

    def fail(self, request: Request, kind: str, message: str) -> None:
        body = json.dumps({"__type": kind, "message": message}).encode()
        request.answer(400, body, {"Content-Type": "application/x-amz-json-1.1", "x-amzn-ErrorType": kind})
