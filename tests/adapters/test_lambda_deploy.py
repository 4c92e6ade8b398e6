"""A deployment is made, changed and removed, on the local Lambda and on moto, whose AWS somebody else wrote."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import zipfile
from pathlib import Path

import moto
import pytest

from asyncpar_lambda import deploy
from asyncpar_lambda.deploy import Cloud, DeployError
from asyncpar_lambda.local import LocalLambda
from asyncpar_lambda.package import Package
from asyncpar_lambda.resources import changes, wanted
from asyncpar_lambda.settings import Settings

pytestmark = [
    pytest.mark.may_block,  # boto3 does
    pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow:DeprecationWarning"),
]

SETTINGS = Settings(
    name="my-job",
    paths=(Path("job.py"),),
    allow=("job:*",),
    variables={"LEVEL": "info"},
    region="us-east-1",
)


@pytest.fixture(scope="module")
def anyio_backend():
    """One loop: boto3 has none."""
    return "asyncio"


@pytest.fixture(autouse=True)
def credentials(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "any")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "any")
    for name in ("AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def moto_aws():
    """moto's AWS: inside of this process, instead of the network."""
    with moto.mock_aws():
        yield None


def package(mark="one"):
    """A zip, small enough for every server."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("job.py", f"# {mark}")
    return Package(buffer.getvalue(), mark, 1, ("job",))


class Deployment:
    """One that a test changes, and what was said about it."""

    def __init__(self, endpoint_url):
        self.cloud = Cloud(SETTINGS, endpoint_url)
        self.said = []

    def deploy(self, mark="one", **settings):
        """What was to be changed."""
        self.cloud.settings = dataclasses.replace(SETTINGS, **settings)
        self.said.clear()
        to = wanted(self.cloud.settings, self.cloud.place, mark, "ab")
        different = changes(self.cloud.read(), to)
        self.cloud.apply(to, package(mark), self.said.append)
        assert changes(self.cloud.read(), to) == {}
        return different

    def alias(self):
        return self.cloud.functions.get_alias(FunctionName="my-job", Name="live")["FunctionVersion"]

    def versions(self):
        found = self.cloud.functions.list_versions_by_function(FunctionName="my-job")["Versions"]
        return [one["Version"] for one in found]


def a_life(endpoint_url):
    """A deployment, from nothing to nothing."""
    one = Deployment(endpoint_url)
    everything = {"role", "log group", "bucket", "function", "alias"}
    try:
        assert one.deploy() == dict.fromkeys(everything)
        assert one.said == [
            f"making the {kind}" for kind in ("role", "log group", "bucket", "function", "alias")
        ]
        assert one.deploy() == {}  # again: nothing is done
        assert one.said == []
        assert one.alias() == "1"

        assert one.deploy("two", concurrency=5).keys() == {"function", "alias"}
        assert one.alias() == "2"
        different = one.deploy("two", memory=512, keep_days=2, log_days=7)
        assert different.keys() == {"function", "alias", "bucket", "log group"}
        assert different["function"] == [
            "Environment.Variables.ASYNCPAR_KEEP_DAYS: 1 -> 2",  # pools put constants again before they go
            "MemorySize: 1769 -> 512",
            "ReservedConcurrentExecutions: 5 -> nothing",
        ]
        assert one.versions() == ["$LATEST", "2", "3"]  # the last two: what runs may end

        one.cloud.objects.put_object(Bucket=one.cloud.bucket, Key="jobs/my-job/1", Body=b"left")
        one.said.clear()
        one.cloud.remove(one.said.append)
        assert one.said == [f"removing the {kind}" for kind in ("function", "log group", "bucket", "role")]
        assert one.cloud.read() == dict.fromkeys(everything)
        one.said.clear()
        one.cloud.remove(one.said.append)
        assert one.said == []
        assert one.cloud.objects.list_buckets()["Buckets"] == []
        assert one.cloud.logs.describe_log_groups()["logGroups"] == []
    finally:
        one.cloud.close()


def what_was_broken_off_is_finished(endpoint_url):
    """Each of these leaves something half done, as a lost connection would."""
    one = Deployment(endpoint_url)
    aws = one.cloud
    try:
        one.deploy()
        aws.functions.delete_alias(FunctionName="my-job", Name="live")
        assert one.deploy() == {"alias": None}
        aws.functions.update_function_configuration(FunctionName="my-job", MemorySize=999)
        assert one.deploy("one", memory=999).keys() == {"alias"}  # it serves the version before
        aws.roles.delete_role_policy(RoleName=aws.role, PolicyName="log")
        aws.objects.delete_bucket_lifecycle(Bucket=aws.bucket)
        assert one.deploy("one", memory=999).keys() == {"role", "bucket"}
        aws.logs.delete_log_group(logGroupName="/aws/lambda/my-job")
        aws.remove(one.said.append)
    finally:
        aws.close()


def a_large_package_goes_through_the_bucket(endpoint_url, monkeypatch):
    monkeypatch.setattr(deploy, "MAX_ZIPPED", 10)
    one = Deployment(endpoint_url)
    try:
        one.deploy()
        one.deploy("two")
        assert "Contents" not in one.cloud.objects.list_objects_v2(Bucket=one.cloud.bucket)
    finally:
        one.cloud.close()


def what_is_not_ours_is_left_alone(endpoint_url):
    one = Deployment(endpoint_url)
    try:
        role = one.cloud.roles.create_role(RoleName="somebodys", AssumeRolePolicyDocument="{}")["Role"]["Arn"]
        one.cloud.functions.create_function(
            FunctionName="my-job",
            Runtime="python3.13",
            Role=role,
            Handler="a.b",
            Code={"ZipFile": package().data},
        )
        for act in (one.deploy, lambda: one.cloud.remove(one.said.append)):
            with pytest.raises(
                DeployError, match="a function my-job that asyncpar has not deployed: take another"
            ):
                act()
        assert one.said == []
    finally:
        one.cloud.close()


async def test_a_life_on_the_local_lambda():
    async with LocalLambda() as server:
        await asyncio.to_thread(a_life, server.endpoint_url)


def test_a_life_on_moto(moto_aws):
    a_life(moto_aws)


async def test_what_was_broken_off_is_finished_on_the_local_lambda():
    async with LocalLambda() as server:
        await asyncio.to_thread(what_was_broken_off_is_finished, server.endpoint_url)


def test_what_was_broken_off_is_finished_on_moto(moto_aws):
    what_was_broken_off_is_finished(moto_aws)


async def test_a_large_package_on_the_local_lambda(monkeypatch):
    async with LocalLambda() as server:
        await asyncio.to_thread(a_large_package_goes_through_the_bucket, server.endpoint_url, monkeypatch)


def test_a_large_package_on_moto(moto_aws, monkeypatch):
    a_large_package_goes_through_the_bucket(moto_aws, monkeypatch)


async def test_what_is_not_ours_on_the_local_lambda():
    async with LocalLambda() as server:
        await asyncio.to_thread(what_is_not_ours_is_left_alone, server.endpoint_url)


def test_what_is_not_ours_on_moto(moto_aws):
    what_is_not_ours_is_left_alone(moto_aws)


def test_other_regions_and_their_buckets(moto_aws):
    settings = dataclasses.replace(SETTINGS, region="eu-central-1")
    cloud = Cloud(settings)
    cloud.apply(wanted(settings, cloud.place, "one", "ab"), package(), lambda _: None)
    where = cloud.objects.get_bucket_location(Bucket=cloud.bucket)["LocationConstraint"]
    assert (cloud.bucket, where) == ("asyncpar-my-job-123456789012-eu-central-1", "eu-central-1")
    cloud.close()


def test_a_role_that_lambda_does_not_see_yet_is_waited_for(moto_aws, monkeypatch):
    cloud = Cloud(SETTINGS)
    create, refused = cloud.functions.create_function, []
    message = "The role defined for the function cannot be assumed by Lambda."

    def late(**options):
        if len(refused) < 2:
            refused.append(options["FunctionName"])
            error = {"Error": {"Code": "InvalidParameterValueException", "Message": message}}
            raise cloud.functions.exceptions.InvalidParameterValueException(error, "CreateFunction")
        return create(**options)

    monkeypatch.setattr(cloud.functions, "create_function", late)
    monkeypatch.setattr(deploy.time, "sleep", lambda _: None)
    cloud.apply(wanted(SETTINGS, cloud.place, "one", "ab"), package(), lambda _: None)
    assert refused == ["my-job", "my-job"]
    cloud.close()


# Errors


def test_without_a_region(monkeypatch, tmp_path):
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(
        DeployError, match="no AWS region is set: write region = into the settings, set AWS_REGION"
    ):
        Cloud(dataclasses.replace(SETTINGS, region=None))


def test_without_credentials(monkeypatch, tmp_path):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(DeployError, match="no AWS credentials were found: set AWS_PROFILE or"):
        Cloud(SETTINGS)


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        ("AccessDenied", "Deploying needs rights to Lambda, IAM roles, S3 and CloudWatch Logs"),
        ("ExpiredToken", r"Log in again \('aws sso login'\)"),
        ("Other", "AWS refused GetRole: Other: because"),
    ],
)
def test_what_aws_refuses_is_said_with_what_to_do(code, advice):
    from botocore.exceptions import ClientError

    with pytest.raises(DeployError, match=advice), deploy.explained():
        raise ClientError({"Error": {"Code": code, "Message": "because"}}, "GetRole")


def test_where_nobody_answers():
    with pytest.raises(DeployError, match="AWS: Could not connect to the endpoint URL"):
        Cloud(SETTINGS, "http://127.0.0.1:1")
