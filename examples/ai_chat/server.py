"""Stream the answers of a language model to many clients, token by token.

    python server.py --port 8080
    curl -N -d '{"prompt": "hello"}' http://127.0.0.1:8080/chat
    python server.py --demo

POST /chat answers by server-sent events: `token` for each, then `done`. GET /ws is a
websocket: {"prompt": ...} begins an answer, {"cancel": true} ends it, and so does
hanging up. The model here is a stand-in that makes its words up; a real one takes the
place of `Model.generate`. SIGINT and SIGTERM let answers end for --grace seconds.
"""

import argparse
import asyncio
import collections
import contextlib
import hashlib
import json
import signal
import sys

from aiohttp import WSMsgType, web

PROMPT = 16 * 1024  # bytes of a prompt, at most
WORDS = "a loop waits for many things and does one at a time but never for long".split()


class Busy(Exception):
    """More answers are wanted than may wait."""


def answer_to(prompt, length):
    """All tokens that the stand-in gives to a prompt: always the same ones."""
    digest = hashlib.sha256(prompt.encode()).digest()
    return [WORDS[digest[at % 32] % len(WORDS)] + " " for at in range(length)]


class Model:
    """A stand-in for a model: `slots` answers at a time, others wait their turn."""

    def __init__(self, slots, waiting, pause, length):
        self.slots = asyncio.Semaphore(slots)
        self.waiting = slots + waiting  # answers that are under way or wait, at most
        self.pause = pause  # seconds for a token
        self.length = length
        self.active = 0
        self.tokens = 0
        self.counts = collections.Counter()

    async def generate(self, prompt):
        """Make the tokens of an answer; who stops asking for more frees the slot."""
        if self.active >= self.waiting:
            self.counts["busy"] += 1
            raise Busy
        self.active += 1
        end = "cancelled"
        try:
            async with self.slots:
                for token in answer_to(prompt, self.length):
                    await asyncio.sleep(self.pause)
                    self.tokens += 1
                    yield token
                end = "finished"
        finally:
            self.active -= 1
            self.counts[end] += 1


def prompt_of(message):
    """The prompt in a client's JSON; a ValueError says what is wrong."""
    try:
        prompt = json.loads(message)["prompt"]
    except (ValueError, KeyError, TypeError):
        raise ValueError('not {"prompt": "..."}') from None
    if not isinstance(prompt, str) or not prompt:
        raise ValueError("the prompt is no text")
    return prompt


class Chat:
    """The web application: the two ways to have an answer."""

    def __init__(self, model, stall):
        self.model = model
        self.stall = stall  # seconds that a client may take nothing
        self.sockets = set()
        self.app = web.Application(client_max_size=PROMPT)
        self.app.add_routes(
            [web.post("/chat", self.events), web.get("/ws", self.socket)]
        )
        self.app.on_shutdown.append(self.close_sockets)

    async def events(self, request):
        """An answer by server-sent events; cancelled by aiohttp if the client goes."""
        try:
            prompt = prompt_of(await request.read())
        except ValueError as error:
            raise web.HTTPBadRequest(text=f"{error}\n") from None
        if self.model.active >= self.model.waiting:
            self.model.counts["busy"] += 1
            raise web.HTTPServiceUnavailable(headers={"Retry-After": "1"})
        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"}
        )
        await response.prepare(request)
        with contextlib.suppress(ConnectionError, asyncio.TimeoutError):
            await self.stream(prompt, lambda kind, text: response.write(
                f"event: {kind}\ndata: {json.dumps(text)}\n\n".encode()
            ))  # fmt: skip
        return response

    async def stream(self, prompt, send):
        """Send each token before the next is made: a slow client slows its answer.

        send: called with "token" and each, then with "done" and how many there were.
        """
        count = 0
        async with contextlib.aclosing(self.model.generate(prompt)) as tokens:
            async for token in tokens:
                await asyncio.wait_for(send("token", token), self.stall)
                count += 1
        await asyncio.wait_for(send("done", count), self.stall)

    async def socket(self, request):
        """Answers by a websocket, one at a time."""
        socket = web.WebSocketResponse(max_msg_size=PROMPT, heartbeat=30.0)
        await socket.prepare(request)
        self.sockets.add(socket)
        answer = None
        try:
            async for message in socket:
                if message.type is not WSMsgType.TEXT:
                    break
                if message.data == '{"cancel": true}':
                    if await cancelled(answer):
                        await socket.send_json({"kind": "cancelled"})
                elif answer is not None and not answer.done():
                    await socket.send_json({"kind": "error", "text": "one at a time"})
                else:
                    answer = asyncio.ensure_future(self.answer(socket, message.data))
        finally:
            self.sockets.discard(socket)
            await cancelled(answer)
        return socket

    async def answer(self, socket, message):
        """One answer by a websocket; what goes wrong is told to the client."""

        def send(kind, value):
            return socket.send_json({"kind": kind, "text": value})

        try:
            await self.stream(prompt_of(message), send)
        except ValueError as error:
            await send("error", str(error))
        except Busy:
            await send("error", "busy")
        except (ConnectionError, asyncio.TimeoutError):
            await socket.close()

    async def close_sockets(self, app):
        """Tell who is connected that this is the end."""
        for socket in list(self.sockets):
            await socket.close(code=1001, message=b"the server ends")


async def cancelled(task):
    """Cancel a task, and wait for its end; return whether it had not ended before."""
    if task is None or task.done():
        return False
    task.cancel()
    await asyncio.wait([task])
    return True


# -- the program -------------------------------------------------------------------


@contextlib.asynccontextmanager
async def serving(options):
    """Serve; gives the model and the port."""
    model = Model(options.slots, options.waiting, options.pause, options.length)
    chat = Chat(model, options.stall)
    runner = web.AppRunner(
        chat.app,
        access_log=None,
        handler_cancellation=True,  # a client that hangs up wants no more tokens
        shutdown_timeout=options.grace,
    )
    await runner.setup()
    try:
        await web.TCPSite(runner, options.host, options.port, backlog=1000).start()
        yield model, runner.addresses[0][1]
    finally:
        await runner.cleanup()


async def run(options):
    """Serve until a signal comes; return the exit status."""
    loop = asyncio.get_running_loop()
    stopped = loop.create_future()

    def stop(number):
        if not stopped.done():
            stopped.set_result(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop, number)
    try:
        async with serving(options) as (model, port):
            print(f"http://{options.host}:{port}/", flush=True)
            name = signal.Signals(await stopped).name
    except OSError as error:
        print(f"server.py: {error}", file=sys.stderr)
        return 1
    counts = ", ".join(f"{n} {end}" for end, n in sorted(model.counts.items()))
    print(f"stopped by {name}; answers: {counts or 'none'}; tokens: {model.tokens}")
    return 0


def at_least(convert, least):
    """A type of argument: a number of that kind, not below another."""

    def parse(text):
        number = convert(text)
        if not least <= number < float("inf"):
            raise argparse.ArgumentTypeError(f"{text} is below {least}")
        return number

    parse.__name__ = convert.__name__
    return parse


def arguments():
    """The parser of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add, whole, real = parser.add_argument, at_least(int, 1), at_least(float, 0)
    add("--host", default="127.0.0.1")
    add("--port", type=at_least(int, 0), default=8080, help="0 takes a free one")
    add("--slots", type=whole, default=64, help="answers at a time")
    add("--waiting", type=at_least(int, 0), default=256, help="answers that may wait")
    add("--pause", type=real, default=0.02, help="seconds the model takes for a token")
    add("--length", type=whole, default=100, help="tokens of an answer")
    add(
        "--stall",
        type=at_least(float, 0.01),
        default=30.0,
        help="seconds that a client may take nothing",
    )
    add("--grace", type=real, default=5.0, help="seconds for answers after a signal")
    add("--demo", action="store_true", help="serve clients of its own")
    return parser


def main():
    """Read the arguments and serve."""
    parser = arguments()
    options = parser.parse_args()
    if options.port > 65535:
        parser.error(f"argument --port: {options.port} is above 65535")
    if options.demo:
        import demo

        return asyncio.run(demo.run(options))
    return asyncio.run(run(options))


if __name__ == "__main__":
    sys.exit(main())
