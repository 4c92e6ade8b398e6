"""Handlers that tests deploy to the local Lambda. Imports nothing that Lambda has not."""

import os
import subprocess
import sys
import time


def echo(event, context):
    return event


def raw(event, context):
    return b"\x00not json"


def fail(event, context):
    print("about to fail")
    raise ValueError(f"no {event}")


def leave(event, context):
    os._exit(3)


def sleep(event, context):
    time.sleep(event)
    return os.getpid()


def hold(event, context):
    """Note in a file beside it that this runs, until there is a file at this path; which process this is."""
    with open(f"{event}.begun", "a") as file:
        file.write("x\n")
    while not os.path.exists(event):
        time.sleep(0.01)
    return os.getpid()


def speak(event, context):
    print(event)
    sys.stderr.write("and an error\n")
    return len(event)


def large(event, context):
    return "x" * event


def about(event, context):
    custom = context.client_context.custom if context.client_context else None
    return {
        "pid": os.getpid(),
        "environ": dict(os.environ),
        "path": sys.path,
        "cwd": os.getcwd(),
        "left": context.get_remaining_time_in_millis(),
        "name": context.function_name,
        "arn": context.invoked_function_arn,
        "request": context.aws_request_id,
        "custom": custom,
        "here": sorted(name for name in os.listdir(".") if name != "__pycache__"),
    }


def importable(event, context):
    try:
        __import__(event)
    except ImportError:
        return False
    return True


def child(event, context):
    """Start a process that outlives the call."""
    return subprocess.Popen(["sleep", "60"]).pid


def mark(event, context):
    with open(event["path"], "a") as file:
        file.write("x\n")
    if event.get("fail"):
        raise ValueError("again")


def crash_on_import():
    pass
