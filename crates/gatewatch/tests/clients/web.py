"""aiohttp, as a server or as a client.

serve NAME PORT TLS_PORT CERT KEY   as a process of that name, until it is ended
load URL PLAN                       JSON: [method, path, bytes of the body, times], …; mixed, over eight connections
"""

import asyncio
import json
import random
import ssl
import sys

import aiohttp
from aiohttp import web

STATUSES = {"missing": 404, "broken": 503, "moved": 302, "made": 201}


async def answer(request):
    received = 0
    async for part in request.content.iter_any():
        received += len(part)
    last = request.path.rsplit("/", 1)[1]
    if last == "streamed":
        # Chunked, in pieces of many sizes.
        response = web.StreamResponse()
        await response.prepare(request)
        for size in (1, 500, 4000, 9000):
            await response.write(b"s" * size)
        await response.write_eof()
        return response
    headers = {"Location": "/items"} if last == "moved" else {}
    body = b"l" * 100_000 if last == "large" else str(received).encode()
    return web.Response(status=STATUSES.get(last, 200), body=body, headers=headers)


async def serve(name, port, tls_port, cert, key):
    with open("/proc/self/comm", "w") as comm:
        comm.write(name)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    await web.TCPSite(runner, "127.0.0.1", int(tls_port), ssl_context=context).start()
    await web.TCPSite(runner, "127.0.0.1", int(port)).start()
    await asyncio.Event().wait()


async def load(url, plan):
    calls = [(method, path, size) for method, path, size, times in json.loads(plan) for _ in range(times)]
    random.shuffle(calls)
    connector = aiohttp.TCPConnector(limit=8, ssl=False)

    async def chunked(size):
        for at in range(0, size, 10_000):
            yield b"c" * min(10_000, size - at)

    async with aiohttp.ClientSession(connector=connector) as session:

        async def worker():
            while calls:
                method, path, size = calls.pop()
                body = chunked(size) if path.endswith("chunked") else b"b" * size or None
                async with session.request(method, url + path, data=body, allow_redirects=False) as response:
                    await response.read()

        await asyncio.gather(*(worker() for _ in range(8)))


asyncio.run(serve(*sys.argv[2:]) if sys.argv[1] == "serve" else load(*sys.argv[2:]))
