"""`outboard aws deploy` against a control plane that isn't ours."""

from __future__ import annotations

import io
import json
import urllib.request
import zipfile
from collections.abc import Iterator
from typing import Any

import pytest
from program import Program

boto3 = pytest.importorskip("boto3")
server = pytest.importorskip("moto.server")

REGION = "us-east-1"
TRUST = {
    "Version": "2012-10-17",
    "Statement": [
        {
            "Effect": "Allow",
            "Principal": {"Service": "lambda.amazonaws.com"},
            "Action": "sts:AssumeRole",
        }
    ],
}


class Aws:
    """AWS on loopback, and its own client."""

    def __init__(self, url: str) -> None:
        self.url = url
        keys = {
            "region_name": REGION,
            "aws_access_key_id": "AKIDEXAMPLE",
            "aws_secret_access_key": "s3cret",
        }
        self.functions: Any = boto3.client("lambda", endpoint_url=url, **keys)
        iam = boto3.client("iam", endpoint_url=url, **keys)
        role = iam.create_role(
            RoleName="outboard-function", AssumeRolePolicyDocument=json.dumps(TRUST)
        )
        self.role: str = role["Role"]["Arn"]

    def deploy(self, outboard: Program, role: str, *keys: str) -> Any:
        settings = [
            f"region={REGION}",
            f"endpoint_url={self.url}",
            "access_key_id=AKIDEXAMPLE",
            "secret_access_key=s3cret",
            *keys,
        ]
        sets = [
            word for setting in settings for word in ("--set", f"providers.aws-lambda.{setting}")
        ]
        return outboard.call("aws", "deploy", "--role", role, *sets)


@pytest.fixture
def aws() -> Iterator[Aws]:
    stand_in = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    stand_in.start()
    host, port = stand_in.get_host_and_port()
    url = f"http://{host}:{port}"
    yield Aws(url)
    # What it knows outlives a server.
    urllib.request.urlopen(
        urllib.request.Request(f"{url}/moto-api/reset", method="POST"), timeout=60
    ).close()
    stand_in.stop()


def package(outboard: Program, content: bytes) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("bootstrap", content)
    (outboard.folder / "function.zip").write_bytes(buffer.getvalue())


def test_a_function_is_made_then_changed(outboard: Program, aws: Aws) -> None:
    package(outboard, b"one")
    first = aws.deploy(outboard, aws.role)
    assert first.returncode == 0, first.stderr
    said = json.loads(first.stdout)
    assert (said["event"], said["version"], said["alias"], said["new"]) == (
        "deployed",
        "1",
        "live",
        True,
    )
    function = aws.functions.get_function_configuration(FunctionName="outboard")
    assert function["FunctionArn"] == said["function"]
    expected = {
        "Runtime": "provided.al2023",
        "Architectures": ["x86_64"],
        "MemorySize": 1769,
        "Timeout": 900,
        "Role": aws.role,
    }
    assert {key: function[key] for key in expected} == expected
    assert aws.functions.get_alias(FunctionName="outboard", Name="live")["FunctionVersion"] == "1"

    package(outboard, b"two")
    keys = ("memory_mb=3008", "timeout=60s", "architecture=arm64")
    second = aws.deploy(outboard, aws.role, *keys)
    assert second.returncode == 0, second.stderr
    said = json.loads(second.stdout)
    assert (said["version"], said["new"]) == ("2", False)
    function = aws.functions.get_function_configuration(FunctionName="outboard")
    assert (function["MemorySize"], function["Timeout"]) == (3008, 60)
    assert aws.functions.get_alias(FunctionName="outboard", Name="live")["FunctionVersion"] == "2"


def test_what_is_wrong_is_told(outboard: Program, aws: Aws) -> None:
    missing = aws.deploy(outboard, aws.role)
    assert missing.returncode == 2
    assert (
        "cannot read the package function.zip" in missing.stderr
        and "outboard aws package" in missing.stderr
    )
    package(outboard, b"one")
    odd = aws.deploy(outboard, "outboard-function")
    assert odd.returncode == 2 and "`outboard-function` is not the ARN of a role" in odd.stderr
    stranger = aws.deploy(outboard, "arn:aws:iam::123456789012:role/nobody")
    assert stranger.returncode != 0 and "check the role" in stranger.stderr, stranger.stderr
    assert "s3cret" not in stranger.stderr
