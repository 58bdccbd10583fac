import logging
import os
import uuid

import pytest

# one process for each GPU is the rule outside tests; here several at a time would wait for each other
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")


@pytest.fixture(scope="session")
def s3_server():
    """Address of an S3 server on this machine."""
    reason = "needs pip install s3fs 'moto[s3]' flask flask-cors, which the lock cannot hold (docs/decisions/0014)"
    pytest.importorskip("s3fs", reason=reason)
    moto = pytest.importorskip("moto.server", reason=reason)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture
def new_bucket(request, monkeypatch):
    """Makes a new, empty place at a URL of some kind: the URL, and the options that reach it."""
    fsspec = pytest.importorskip("fsspec")

    def make(kind):
        name = f"bucket-{uuid.uuid4().hex[:12]}"
        if kind == "memory":
            return f"memory:///{name}", {}
        options = {"endpoint_url": request.getfixturevalue("s3_server")}
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "something")
        fsspec.filesystem("s3", **options).mkdir(name)
        return f"s3://{name}", options

    yield make
    fsspec.filesystem("memory").store.clear()


@pytest.fixture(params=["memory", "s3"])
def bucket(request, new_bucket):
    return new_bucket(request.param)
