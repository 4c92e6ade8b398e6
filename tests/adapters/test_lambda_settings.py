"""The settings of a deployment, as its file says them."""

from __future__ import annotations

from pathlib import Path

import pytest

from asyncpar_lambda.package import Target
from asyncpar_lambda.settings import SettingsError, read_settings, write_settings

LEAST = 'name = "job"\npaths = ["job.py"]\nallow = ["job:*"]\n'


@pytest.fixture
def file(tmp_path):
    return tmp_path / "asyncpar-lambda.toml"


def test_the_least_that_must_be_said(file):
    file.write_text(LEAST)
    settings = read_settings(file)
    assert settings.paths == (file.parent / "job.py",)  # relative to the file, wherever the command runs
    assert settings.target == Target("3.13", "arm64")
    assert (settings.memory, settings.timeout, settings.functions) == (1769, 300, "names")


def test_everything_that_may_be_said(file):
    file.write_text(
        f'{LEAST}requirements = ["numpy"]\nfunctions = "by_value"\npython = "3.11"\nmachine = "x86_64"\nmemory = 512\n'
        'timeout = 9\nconcurrency = 3\nregion = "eu-central-1"\nlog_days = 7\nkeep_days = 2\nvariables = { A = "b" }\n'
    )
    settings = read_settings(file)
    assert settings.requirements == ("numpy",)
    assert settings.target == Target("3.11", "x86_64")
    assert (settings.concurrency, settings.region, settings.variables) == (3, "eu-central-1", {"A": "b"})


def test_what_is_written_to_begin_with_can_be_read(file):
    module, folder = file.parent / "My_Job.py", file.parent / "library"
    module.touch()
    folder.mkdir()
    write_settings(file, [Path(module), folder], None, [])
    settings = read_settings(file)
    assert (settings.name, settings.allow) == ("my-job", ("My_Job:*", "library:*"))
    assert settings.paths == (module, folder)
    with pytest.raises(SettingsError, match="is there already: change it, or remove it first"):
        write_settings(file, [module], None, [])


def test_nothing_is_written_for_what_cannot_be(file):
    with pytest.raises(
        SettingsError, match=r"there is no nowhere\.py: name files and folders that are there"
    ):
        write_settings(file, [Path("nowhere.py")], None, [])
    module = file.parent / "job.py"
    module.touch()
    script = file.parent / "my-job.py"
    script.touch()
    with pytest.raises(
        SettingsError, match=r"my-job\.py cannot be imported: rename it to letters, digits and"
    ):
        write_settings(file, [script], None, [])
    with pytest.raises(SettingsError, match="name = 'Job': 2 to 26 lower-case letters, digits and hyphens"):
        write_settings(file, [module], "Job", [])
    assert not file.exists()


def test_without_a_file(file):
    with pytest.raises(
        SettingsError, match="write one with 'asyncpar lambda init', or name it with --config"
    ):
        read_settings(file)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("memory = 64", "memory = 64: 128 to 10240 MB"),
        ('memory = "much"', "memory = 'much': it must be a whole number"),
        ("memory = true", "memory = True: it must be a whole number"),
        (
            "timeout = 900",
            "timeout = 900: 1 to 600 seconds; make longer calls shorter, or run them on AWS Batch",
        ),
        ('python = "2.7"', r"python = '2.7': Lambda has 3.11, 3.12"),
        ('machine = "sparc"', "machine = 'sparc': arm64 or x86_64"),
        ('functions = "any"', "functions = 'any': names or by_value"),
        ("concurrency = 0", "concurrency = 0: 1 or more"),
        ("requirements = [1]", r"requirements = \[1\]: it must be a list of texts"),
        ("variables = { A = 1 }", "it must be a table of texts"),
        (
            'variables = { AWS_REGION = "x" }',
            r"variables: \['AWS_REGION'\] would hide what asyncpar or AWS sets",
        ),
        ("memroy = 512", "there is no setting memroy; there are name, paths, allow"),
        ("= 1", r"toml: Invalid"),
    ],
)
def test_what_makes_no_sense_is_named(file, line, message):
    file.write_text(LEAST + line)
    with pytest.raises(SettingsError, match=message) as caught:
        read_settings(file)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('name = "job"', "paths, allow must be set"),
        (
            'name = "job"\npaths = []\nallow = ["a:b"]',
            "name the files and folders that your functions are in",
        ),
        ('name = "job"\npaths = ["a"]\nallow = ["a.py:*:b"]', "allow: 'a.py:[*]:b': name what may be called"),
        ('name = "job"\npaths = ["a"]\nallow = ["a"]', 'as "module:function" or "module:[*]"'),
        ('name = "-job"\npaths = ["a"]\nallow = ["a:b"]', "name = '-job'"),
    ],
)
def test_what_must_be_said(file, text, message):
    file.write_text(text)
    with pytest.raises(SettingsError, match=message):
        read_settings(file)
