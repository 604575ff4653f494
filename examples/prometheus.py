"""A server that tells Prometheus how its loop does: GET /metrics, in plain text.

python examples/prometheus.py [port]
"""

import asyncio
import dataclasses
import sys

import pyloop

# Those that only grow; the others go up and down.
COUNTERS = {"ticks", "polls", "callbacks", "busy_seconds", "idle_seconds"}
COUNTERS |= {"bytes_in", "bytes_out", "messages_in", "messages_out"}
COUNTERS |= {"threadsafe_calls", "wakeups", "accept_pauses"}
COUNTERS |= {"executor_jobs", "executor_wait_seconds"}

QUANTILES = {"p50": "0.5", "p90": "0.9", "p99": "0.99", "p999": "0.999", "max": "1"}


def exposition(metrics):
    """The metrics in Prometheus' text format, version 0.0.4."""
    lines = []
    for field in dataclasses.fields(metrics):
        value = getattr(metrics, field.name)
        if isinstance(value, (int, float)):
            counter = field.name in COUNTERS
            name = f"pyloop_{field.name}" + ("_total" if counter else "")
            lines.append(f"# TYPE {name} {'counter' if counter else 'gauge'}")
            lines.append(f"{name} {value}")
    lines.append("# TYPE pyloop_lag_seconds gauge")
    for field, quantile in QUANTILES.items():
        value = getattr(metrics.lag, field)
        lines.append(f'pyloop_lag_seconds{{quantile="{quantile}"}} {value}')
    return "\n".join(lines) + "\n"


async def answer(reader, writer):
    """One request; the connection ends with it."""
    request = await reader.readline()
    while (await reader.readline()).strip():
        pass
    status, text = "404 Not Found", "see /metrics\n"
    if request.split()[1:2] == [b"/metrics"]:
        status, text = "200 OK", exposition(asyncio.get_running_loop().metrics())
    writer.write(
        f"HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4\r\n"
        f"Content-Length: {len(text)}\r\nConnection: close\r\n\r\n{text}".encode()
    )
    await writer.drain()
    writer.close()
    await writer.wait_closed()


async def main(port):
    server = await asyncio.start_server(answer, "127.0.0.1", port)
    port = server.sockets[0].getsockname()[1]
    print(f"http://127.0.0.1:{port}/metrics", flush=True)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    pyloop.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 9090))
