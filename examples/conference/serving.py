"""How the example's web servers run: until SIGTERM or SIGINT, saying first where they listen."""

import asyncio
import signal
import sys

from aiohttp import web

LOOPBACK = "127.0.0.1"


def serve(app: web.Application, port: int, host: str = LOOPBACK) -> None:
    """Print the address as the first line and serve until a signal; a plain sentence when the port is taken."""
    try:
        asyncio.run(_serve(app, port, host))
    except OSError as error:
        sys.exit(f"Port {port} cannot be listened on: {error.strerror}. Give another one with --port, or 0.")


async def _serve(app: web.Application, port: int, host: str) -> None:
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        host, bound = runner.addresses[0][:2]
        print(f"http://{host}:{bound}", flush=True)
        await ended.wait()
    finally:
        await runner.cleanup()
