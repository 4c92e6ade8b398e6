"""The slice of AWS's control plane that the local Lambda has: a deployment, as AWS's own clients make it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path

import aiobotocore.session
import pytest
from aiobotocore.config import AioConfig
from botocore.exceptions import ClientError

from asyncpar_lambda.local import LocalLambda
from asyncpar_lambda.package import _zip
from tests.waiting import until

HERE = Path(__file__).parent

pytestmark = pytest.mark.may_block  # botocore reads its data files when a client is made


@pytest.fixture(scope="module")
def anyio_backend():
    """One loop: the server has a process, and a loop, of its own."""
    return "asyncio"


class Clients:
    """AWS's clients of one local Lambda."""

    def __init__(self, cloud, stack):
        self.cloud, self.stack = cloud, stack

    async def __call__(self, service):
        """One client, open until the test ends."""
        made = aiobotocore.session.get_session().create_client(
            service, region_name="us-east-1", endpoint_url=self.cloud.endpoint_url, aws_access_key_id="x",
            aws_secret_access_key="y", config=AioConfig(retries={"total_max_attempts": 1}),
        )  # fmt: skip
        return await self.stack.enter_async_context(made)


@pytest.fixture
async def clients():
    async with LocalLambda() as cloud, contextlib.AsyncExitStack() as stack:
        yield Clients(cloud, stack)


async def code_of(call):
    with pytest.raises(ClientError) as caught:
        await call
    return caught.value.response["Error"]["Code"]


def code(answer):
    """A zip whose handler answers so."""
    return _zip({"h.py": f"def handler(event, context): return {answer!r}\n".encode()})


async def created(aws, **more):
    options = {
        "Role": "arn:aws:iam::000000000000:role/r",
        "Handler": "h.handler",
        "Runtime": "python3.13",
        **more,
    }
    return await aws.create_function(FunctionName="f", Code={"ZipFile": code("one")}, **options)


async def answer(aws, **more):
    reply = await aws.invoke(FunctionName="f", **more)
    return json.loads(await reply["Payload"].read()), reply["ExecutedVersion"]


async def test_a_function_from_creation_to_removal(clients):
    aws = await clients("lambda")
    made = await created(
        aws,
        Timeout=7,
        MemorySize=512,
        Environment={"Variables": {"A": "1"}},
        Tags={"by": "asyncpar"},
        Architectures=["arm64"],
    )
    assert (made["Timeout"], made["MemorySize"], made["State"], made["Version"]) == (
        7,
        512,
        "Active",
        "$LATEST",
    )
    assert await code_of(created(aws)) == "ResourceConflictException"
    found = await aws.get_function(FunctionName="f")
    assert found["Configuration"]["CodeSha256"] == made["CodeSha256"]
    assert found["Configuration"]["Environment"] == {"Variables": {"A": "1"}}
    assert found["Tags"] == {"by": "asyncpar"}
    await (aws.get_waiter("function_active_v2")).wait(FunctionName="f")
    assert await answer(aws) == ("one", "$LATEST")
    listed = await aws.list_functions()
    assert [one["FunctionName"] for one in listed["Functions"]] == ["f"]
    await aws.delete_function(FunctionName="f")
    assert await code_of(aws.get_function(FunctionName="f")) == "ResourceNotFoundException"
    assert await code_of(aws.delete_function(FunctionName="f")) == "ResourceNotFoundException"
    assert (await clients.cloud.statistics())["environments"] == 0


async def test_versions_and_aliases_keep_what_they_were_given(clients):
    aws = await clients("lambda")
    await created(aws)
    first = (await aws.publish_version(FunctionName="f"))["Version"]
    assert (await aws.publish_version(FunctionName="f"))["Version"] == first  # nothing has changed since
    made = await aws.create_alias(FunctionName="f", Name="live", FunctionVersion=first)
    assert made["AliasArn"].endswith(":f:live")
    assert (
        await code_of(aws.create_alias(FunctionName="f", Name="live", FunctionVersion=first))
        == "ResourceConflictException"
    )
    await answer(aws)
    changed = await aws.update_function_code(FunctionName="f", ZipFile=code("two"), Publish=True)
    await aws.get_waiter("function_updated_v2").wait(FunctionName="f")
    assert changed["Version"] == "2"
    assert await answer(aws) == ("two", "$LATEST")
    assert await answer(aws, Qualifier="live") == ("one", "1")
    assert (await aws.get_function_configuration(FunctionName="f", Qualifier="live"))["Version"] == "1"
    assert (await aws.get_function_configuration(FunctionName="f:live"))["Version"] == "1"
    for name in ("f:none", "arn:aws:lambda:us-east-1:000000000000:function:f:none"):
        assert await code_of(aws.get_function_configuration(FunctionName=name)) == "ResourceNotFoundException"
    await aws.update_alias(FunctionName="f", Name="live", FunctionVersion="2")
    assert await answer(aws, Qualifier="live") == ("two", "2")
    assert (await aws.get_alias(FunctionName="f", Name="live"))["FunctionVersion"] == "2"
    versions = (await aws.list_versions_by_function(FunctionName="f"))["Versions"]
    assert [one["Version"] for one in versions] == ["$LATEST", "1", "2"]
    await aws.delete_alias(FunctionName="f", Name="live")
    assert (await aws.list_aliases(FunctionName="f"))["Aliases"] == []


async def test_a_version_can_be_deleted_unless_an_alias_serves_it(clients):
    aws = await clients("lambda")
    await created(aws, Publish=True)
    await aws.create_alias(FunctionName="f", Name="live", FunctionVersion="1")
    assert await code_of(aws.delete_function(FunctionName="f", Qualifier="1")) == "ResourceConflictException"
    await aws.update_function_code(FunctionName="f", ZipFile=code("two"), Publish=True)
    await aws.update_alias(FunctionName="f", Name="live", FunctionVersion="2")
    await aws.delete_function(FunctionName="f", Qualifier="1")
    assert await answer(aws, Qualifier="live") == ("two", "2")
    versions = (await aws.list_versions_by_function(FunctionName="f"))["Versions"]
    assert [one["Version"] for one in versions] == ["$LATEST", "2"]
    changed = await aws.update_function_code(FunctionName="f", ZipFile=code("three"), Publish=True)
    assert changed["Version"] == "3"  # no number is used twice


async def test_configuration_concurrency_tags_and_permissions(clients):
    aws = await clients("lambda")
    arn = (await created(aws))["FunctionArn"]
    await aws.update_function_configuration(
        FunctionName="f", Timeout=99, Environment={"Variables": {"B": "2"}}
    )
    found = await aws.get_function_configuration(FunctionName="f")
    assert (found["Timeout"], found["Environment"], found["Handler"]) == (
        99,
        {"Variables": {"B": "2"}},
        "h.handler",
    )
    await aws.put_function_concurrency(FunctionName="f", ReservedConcurrentExecutions=3)
    assert (await aws.get_function_concurrency(FunctionName="f"))["ReservedConcurrentExecutions"] == 3
    limits = await aws.get_account_settings()
    assert limits["AccountLimit"]["UnreservedConcurrentExecutions"] == 997
    await aws.delete_function_concurrency(FunctionName="f")
    assert "ReservedConcurrentExecutions" not in await aws.get_function_concurrency(FunctionName="f")
    await aws.tag_resource(Resource=arn, Tags={"k": "v"})
    assert (await aws.list_tags(Resource=arn))["Tags"] == {"k": "v"}
    await aws.add_permission(FunctionName="f", StatementId="s", Action="lambda:InvokeFunction", Principal="p")
    assert "lambda:InvokeFunction" in (await aws.get_policy(FunctionName="f"))["Policy"]
    await aws.put_function_event_invoke_config(FunctionName="f", MaximumRetryAttempts=0)


async def test_code_comes_from_the_object_store_too_and_must_be_a_zip(clients):
    aws, s3 = await clients("lambda"), await clients("s3")
    await s3.create_bucket(Bucket="bucket")
    await s3.put_object(Bucket="bucket", Key="f.zip", Body=code("from the store"))
    await created(aws)
    await aws.update_function_code(FunctionName="f", S3Bucket="bucket", S3Key="f.zip")
    assert (await answer(aws))[0] == "from the store"
    assert (
        await code_of(aws.update_function_code(FunctionName="f", ZipFile=b"no zip"))
        == "InvalidParameterValueException"
    )
    assert (
        await code_of(aws.update_function_code(FunctionName="f", S3Bucket="bucket", S3Key="none"))
        == "InvalidParameterValueException"
    )
    assert (await answer(aws))[0] == "from the store"


async def test_a_running_invocation_ends_before_its_environment_is_replaced(clients, tmp_path):
    aws = await clients("lambda")
    await created(aws)
    slow = _zip(
        {
            "h.py": b"import os, time\ndef handler(event, context):\n    open(event + '.begun', 'w').close()\n"
            b"    while not os.path.exists(event): time.sleep(0.01)\n    return 'old'\n"
        }
    )
    await aws.update_function_code(FunctionName="f", ZipFile=slow)
    go_on = tmp_path / "go on"
    running = asyncio.ensure_future(answer(aws, Payload=json.dumps(str(go_on))))
    await until((tmp_path / "go on.begun").exists)
    await aws.update_function_code(FunctionName="f", ZipFile=code("new"))
    assert (await answer(aws))[0] == "new"
    assert not running.done()
    go_on.touch()
    assert (await running)[0] == "old"


async def test_roles_and_their_policies(clients):
    iam = await clients("iam")
    assert await code_of(iam.get_role(RoleName="r")) == "NoSuchEntity"
    trust = json.dumps({"Statement": [{"Principal": {"Service": "lambda.amazonaws.com"}}]})
    made = (await iam.create_role(RoleName="r", AssumeRolePolicyDocument=trust))["Role"]
    assert made["Arn"] == "arn:aws:iam::000000000000:role/r"
    assert (
        await code_of(iam.create_role(RoleName="r", AssumeRolePolicyDocument=trust)) == "EntityAlreadyExists"
    )
    policy = {"Statement": [{"Effect": "Allow", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::b/<&>"}]}
    await iam.put_role_policy(RoleName="r", PolicyName="p", PolicyDocument=json.dumps(policy))
    assert (await iam.get_role_policy(RoleName="r", PolicyName="p"))["PolicyDocument"] == policy
    assert (await iam.list_role_policies(RoleName="r"))["PolicyNames"] == ["p"]
    await iam.attach_role_policy(RoleName="r", PolicyArn="arn:aws:iam::aws:policy/A")
    attached = (await iam.list_attached_role_policies(RoleName="r"))["AttachedPolicies"]
    assert [one["PolicyName"] for one in attached] == ["A"]
    assert await code_of(iam.delete_role(RoleName="r")) == "DeleteConflict"
    await iam.detach_role_policy(RoleName="r", PolicyArn="arn:aws:iam::aws:policy/A")
    await iam.delete_role_policy(RoleName="r", PolicyName="p")
    await iam.delete_role(RoleName="r")
    assert await code_of(iam.get_role(RoleName="r")) == "NoSuchEntity"


async def test_what_functions_print_is_in_their_log_group(clients):
    aws, logs = await clients("lambda"), await clients("logs")
    await created(aws)
    group = {"logGroupName": "/aws/lambda/f"}
    assert await code_of(logs.filter_log_events(**group)) == "ResourceNotFoundException"
    says = _zip({"h.py": b"def handler(event, context): print('it is', event)\n"})
    await aws.update_function_code(FunctionName="f", ZipFile=says)
    for event in (b"1", b"2"):
        await aws.invoke(FunctionName="f", Payload=event)
    events = (await logs.filter_log_events(**group))["events"]
    lines = [event["message"].split(" ")[0] for event in events]
    assert lines == ["START", "it", "END", "REPORT"] * 2
    assert len({event["logStreamName"] for event in events}) == 1
    found = (await logs.filter_log_events(**group, filterPattern='"it is 2"'))["events"]
    assert [event["message"] for event in found] == ["it is 2\n"]
    assert (await logs.filter_log_events(**group, startTime=events[-1]["timestamp"] + 1))["events"] == []


async def test_logs_identity_and_buckets(clients):
    logs, sts, s3 = await clients("logs"), await clients("sts"), await clients("s3")
    assert (await sts.get_caller_identity())["Account"] == "000000000000"
    await logs.create_log_group(logGroupName="/aws/lambda/f")
    assert (
        await code_of(logs.create_log_group(logGroupName="/aws/lambda/f")) == "ResourceAlreadyExistsException"
    )
    await logs.put_retention_policy(logGroupName="/aws/lambda/f", retentionInDays=7)
    [group] = (await logs.describe_log_groups(logGroupNamePrefix="/aws/lambda/f"))["logGroups"]
    assert group["retentionInDays"] == 7
    await logs.delete_log_group(logGroupName="/aws/lambda/f")
    assert await code_of(logs.delete_log_group(logGroupName="/aws/lambda/f")) == "ResourceNotFoundException"
    assert await code_of(s3.head_bucket(Bucket="bucket")) == "404"
    await s3.create_bucket(Bucket="bucket")
    assert (
        await code_of(s3.get_bucket_lifecycle_configuration(Bucket="bucket"))
        == "NoSuchLifecycleConfiguration"
    )
    rule = {"ID": "asyncpar", "Status": "Enabled", "Filter": {"Prefix": "job/"}, "Expiration": {"Days": 1}}
    await s3.put_bucket_lifecycle_configuration(Bucket="bucket", LifecycleConfiguration={"Rules": [rule]})
    assert (await s3.get_bucket_lifecycle_configuration(Bucket="bucket"))["Rules"] == [rule]
    block = {
        "BlockPublicAcls": True,
        "IgnorePublicAcls": True,
        "BlockPublicPolicy": True,
        "RestrictPublicBuckets": True,
    }
    await s3.put_public_access_block(Bucket="bucket", PublicAccessBlockConfiguration=block)
    assert (await s3.get_public_access_block(Bucket="bucket"))["PublicAccessBlockConfiguration"] == block
    await s3.delete_bucket(Bucket="bucket")
    assert await code_of(s3.head_bucket(Bucket="bucket")) == "404"
