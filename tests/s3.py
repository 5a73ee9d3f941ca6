"""A real S3 server for tests: moto's, as a process of its own on a free port, gone when the test is."""

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
import s3fs

SECONDS = 60  # bound on every wait here
NAME = "bucket"


@dataclass(frozen=True)
class Bucket:
    """An empty bucket; this process and its children find it by ``url`` while it is there."""

    process: "subprocess.Popen[bytes]"  # to be killed or stopped by a test of stores that do not answer
    client: Any  # boto3's, which knows nothing of fsspec: what does really lie there?
    url: str = f"s3://{NAME}"

    def keys(self, prefix: str = "") -> list[str]:
        """The keys of all objects whose key begins with ``prefix``, in order."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=NAME, Prefix=prefix)
        return sorted(row["Key"] for page in pages for row in page.get("Contents", []))

    def content(self, key: str) -> bytes:
        """The content of one object."""
        found: bytes = self.client.get_object(Bucket=NAME, Key=key)["Body"].read()
        return found


@contextmanager
def bucket() -> Iterator[Bucket]:
    """A server with one bucket; ``AWS_ENDPOINT_URL`` and keys stand in the environment until it ends."""
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        folder, log = Path(name), Path(name) / "log"
        environment = {
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }
        for variable, value in environment.items():
            patch.setenv(variable, value)
        patch.delenv("AWS_PROFILE", raising=False)
        with log.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"],
                stdout=file,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env=os.environ | {"TMPDIR": name},
                start_new_session=True,
            )
        try:
            patch.setenv("AWS_ENDPOINT_URL", _address(process, log))
            client = boto3.client("s3")
            client.create_bucket(Bucket=NAME)
            yield Bucket(process, client)
        finally:
            process.kill()
            process.wait()
            s3fs.S3FileSystem.clear_instance_cache()  # they know this server's address


def _address(process: "subprocess.Popen[bytes]", log: Path) -> str:
    """The address of the server, once it says that it listens."""
    deadline = time.monotonic() + SECONDS
    while not (found := re.search(r"Running on (http://[\d.:]+)", log.read_text())):
        assert process.poll() is None and time.monotonic() < deadline, f"moto's server:\n{log.read_text()}"
        time.sleep(0.05)
    return found[1]
