"""The servers of `make services`: each is started when the first test asks for it."""

import logging

import pytest
import servers
import servicekit


@pytest.fixture(scope="session")
def authority(certificates):
    """The paths of an authority's certificate, a server's chain and its key."""
    return certificates.ca_path, certificates.chain_path, certificates.key_path


@pytest.fixture(scope="session")
def postgres(authority):
    with servicekit.postgres(tls=authority[1:]) as service:
        yield service


@pytest.fixture(scope="session")
def redis_server(authority):
    with servicekit.redis(tls=authority) as service:
        yield service


@pytest.fixture(scope="session")
def rabbitmq(authority):
    with servers.rabbitmq(tls=authority) as service:
        yield service


@pytest.fixture(scope="session")
def nginx(authority):
    with servers.nginx(tls=authority[1:]) as service:
        yield service


@pytest.fixture(scope="session")
def kafka():
    with servers.kafka() as service:
        yield service


@pytest.fixture(autouse=True)
def log_records_hold_nothing(asyncio_log):
    """Make log records of text: what they were about is to be counted in teardown.

    The libraries log exceptions, which hold the loop, and pytest keeps the records.
    """
    factory = logging.getLogRecordFactory()

    def text_only(*args, **kwargs):
        record = factory(*args, **kwargs)
        record.msg, record.args = record.getMessage(), None
        if record.exc_info:
            record.exc_text = logging.Formatter().formatException(record.exc_info)
            record.exc_info = None
        return record

    logging.setLogRecordFactory(text_only)
    yield
    logging.setLogRecordFactory(factory)
