"""What a deployment consists of: the narrowest rights, what a change is, and serverless.yml beside it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from asyncpar_lambda.resources import Place, changes, client_policy, for_serverless, wanted, worker_policy
from asyncpar_lambda.settings import Settings

SERVERLESS = Path(__file__).parents[2] / "serverless.yml"
PLACE = Place("123456789012", "eu-central-1")
SETTINGS = Settings(
    name="my-job", paths=(Path("job.py"),), allow=("job:f", "job:g"), concurrency=7, log_days=30, keep_days=3,
    variables={"LEVEL": "info"}, region="eu-central-1",
)  # fmt: skip


@pytest.fixture
def resources():
    return wanted(SETTINGS, PLACE, "c0de", "ab")


# Rights


@pytest.mark.parametrize("policy", [worker_policy(SETTINGS, PLACE), client_policy(SETTINGS, PLACE)])
def test_no_action_is_a_wildcard_and_every_resource_is_named(policy):
    for statement in policy["Statement"]:
        assert statement["Effect"] == "Allow"
        assert not [action for action in statement["Action"] if "*" in action]
        assert all("my-job" in resource for resource in statement["Resource"])


def test_the_function_may_write_its_log_and_nothing_else(resources):
    [statement] = resources["role"]["PolicyDocument"]["Statement"]
    assert statement["Action"] == ["logs:CreateLogStream", "logs:PutLogEvents"]
    assert statement["Resource"] == ["arn:aws:logs:eu-central-1:123456789012:log-group:/aws/lambda/my-job:*"]
    [trust] = resources["role"]["AssumeRolePolicyDocument"]["Statement"]
    assert trust["Principal"] == {"Service": "lambda.amazonaws.com"}


def test_who_calls_needs_one_alias_and_one_prefix():
    allowed = {
        (action, resource)
        for statement in client_policy(SETTINGS, PLACE)["Statement"]
        for action in statement["Action"]
        for resource in statement["Resource"]
    }
    function = "arn:aws:lambda:eu-central-1:123456789012:function:my-job"
    objects = "arn:aws:s3:::asyncpar-my-job-123456789012-eu-central-1/jobs/my-job/*"
    assert allowed == {
        ("lambda:InvokeFunction", f"{function}:live"),
        ("lambda:GetFunctionConfiguration", f"{function}:live"),
        ("lambda:GetFunctionConcurrency", function),
        ("s3:GetObject", objects),
        ("s3:PutObject", objects),
    }


def test_names_are_short_enough_for_aws():
    long = Settings(name="x" * 26, paths=(Path("a"),), allow=("a:b",))
    named = wanted(long, Place("1" * 12, "ap-southeast-1"), "", "")
    assert len(named["bucket"]["BucketName"]) <= 63
    assert len(named["role"]["RoleName"]) <= 64


# Changes


def test_what_is_as_it_should_be_is_no_change(resources):
    assert changes(dict(resources), resources) == {}


def test_what_is_not_there_is_made(resources):
    assert changes(dict.fromkeys(resources), resources) == dict.fromkeys(resources)


def test_a_change_is_said_in_words_and_the_alias_follows_the_function(resources):
    found = json.loads(json.dumps(resources))
    del found["function"]["ReservedConcurrentExecutions"]
    found["function"]["MemorySize"] = 512
    found["function"]["Environment"]["Variables"]["ASYNCPAR_PUBLIC_KEY"] = "cd" * 32
    found["bucket"]["LifecycleConfiguration"] = None
    different = changes(found, resources)
    assert different.keys() == {"function", "bucket", "alias"}
    assert different["function"] == [
        "Environment.Variables.ASYNCPAR_PUBLIC_KEY: cdcdcdcdcdcd… -> ab",
        "MemorySize: 512 -> 1769",
        "ReservedConcurrentExecutions: nothing -> 7",
    ]


# serverless.yml


def resolved(value, given):
    """What the Serverless Framework, and then CloudFormation, make of a value of the file."""
    if isinstance(value, dict):
        if value.keys() == {"Fn::Sub"}:
            text = resolved(value["Fn::Sub"], given)
            for name, actual in {
                "AccountId": PLACE.account,
                "Region": PLACE.region,
                "Partition": "aws",
            }.items():
                text = text.replace(f"${{AWS::{name}}}", actual)
            return text
        return {key: resolved(one, given) for key, one in value.items()}
    if isinstance(value, list):
        return [resolved(one, given) for one in value]
    if not isinstance(value, str):
        return value
    whole = re.fullmatch(r"\$\{self:custom\.asyncpar\.(\w+)(, .*)?\}", value)
    if whole:
        return resolved(given[whole[1]], given)
    return re.sub(r"\$\{self:custom\.asyncpar\.(\w+)\}", lambda found: str(given[found[1]]), value)


@pytest.fixture
def stack():
    """The file, with what ``deploy --package-only`` writes put in."""
    given = json.loads(json.dumps(for_serverless(SETTINGS, ".asyncpar/package.zip", "c0de", "ab")))
    return resolved(yaml.safe_load(SERVERLESS.read_text()), given)


def of_type(stack, kind):
    """The only resource of this type."""
    every = {name: one for part in stack["resources"] for name, one in part["Resources"].items()}
    [(name, found)] = [(name, one) for name, one in every.items() if one["Type"] == f"AWS::{kind}"]
    return name, found["Properties"]


def test_serverless_makes_the_same_function(stack, resources):
    worker = stack["functions"]["worker"]
    _, role = of_type(stack, "IAM::Role")
    assert {
        "FunctionName": worker["name"],
        "Runtime": worker["runtime"],
        "Handler": worker["handler"],
        "Architectures": [worker["architecture"]],
        "MemorySize": worker["memorySize"],
        "Timeout": worker["timeout"],
        "Role": f"arn:aws:iam::{PLACE.account}:role/{role['RoleName']}",
        "Environment": {"Variables": worker["environment"]},
        "ReservedConcurrentExecutions": worker["reservedConcurrency"],
    } == resources["function"]
    assert stack["provider"]["iam"]["role"] == {"Fn::GetAtt": ["WorkerRole", "Arn"]}
    assert len(stack["functions"]) == 1
    assert stack["package"] == {"artifact": ".asyncpar/package.zip"}


def test_serverless_makes_the_same_role(stack, resources):
    name, role = of_type(stack, "IAM::Role")
    assert name == "WorkerRole"
    [policy] = role["Policies"]
    assert policy["PolicyName"] == "log"
    assert {
        "RoleName": role["RoleName"],
        "AssumeRolePolicyDocument": role["AssumeRolePolicyDocument"],
        "PolicyDocument": policy["PolicyDocument"],
    } == resources["role"]
    assert "ManagedPolicyArns" not in role


def test_serverless_makes_the_same_bucket_and_log(stack, resources):
    _, bucket = of_type(stack, "S3::Bucket")
    [rule] = bucket["LifecycleConfiguration"]["Rules"]  # CloudFormation has other words for the same rule
    assert {
        "BucketName": bucket["BucketName"],
        "PublicAccessBlockConfiguration": bucket["PublicAccessBlockConfiguration"],
        "LifecycleConfiguration": {
            "Rules": [
                {
                    "ID": rule["Id"],
                    "Status": rule["Status"],
                    "Filter": {"Prefix": rule["Prefix"]},
                    "Expiration": {"Days": rule["ExpirationInDays"]},
                    "AbortIncompleteMultipartUpload": rule["AbortIncompleteMultipartUpload"],
                }
            ]
        },
    } == resources["bucket"]
    # The framework names the log group after the function.
    assert stack["provider"]["logRetentionInDays"] == resources["log group"]["RetentionInDays"]


def test_serverless_makes_the_same_alias_and_another_version_for_every_change(stack, resources):
    _, alias = of_type(stack, "Lambda::Alias")
    assert alias["Name"] == resources["alias"]["Name"]
    version, properties = of_type(stack, "Lambda::Version")
    assert alias["FunctionVersion"] == {"Fn::GetAtt": [version, "Version"]}
    assert properties["FunctionName"] == alias["FunctionName"] == {"Ref": "WorkerLambdaFunction"}
    again = for_serverless(SETTINGS, "", "c0de", "ab")["version"]["Resources"]
    assert version in again
    changed = for_serverless(SETTINGS, "", "other", "ab")["version"]["Resources"]
    assert version not in changed
