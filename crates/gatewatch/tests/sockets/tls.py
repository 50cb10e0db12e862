"""Conversations within TLS over loopback. Prints, a line of JSON each, what went where."""

import asyncio, json, os, socket, ssl, sys, threading

CERT, KEY = sys.argv[2:4]
REQUEST = b"POST /secret HTTP/1.1\r\nHost: test\r\nContent-Length: 3000\r\n\r\n" + b"0123456789" * 300
RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Length: 20000\r\n\r\n" + b"abcdefghij" * 2000
ROUNDS = 3


def contexts():
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(CERT, KEY)
    return server, ssl._create_unverified_context()


def tell(name, client, server):
    print(json.dumps({"name": name, "client": client, "server": server, "up": (REQUEST * ROUNDS).hex(),
                      "down": (RESPONSE * ROUNDS).hex(), "before": {"up": 0, "down": 0}, "pid": os.getpid()}), flush=True)


def exactly(end, n):
    got = 0
    while got < n:
        got += len(end.recv(8192))


def sockets():
    """Libssl reads and writes the socket itself."""
    for_server, for_client = contexts()
    listener = socket.create_server(("127.0.0.1", 0))

    def serve():
        end = for_server.wrap_socket(listener.accept()[0], server_side=True)
        for _ in range(ROUNDS):
            exactly(end, len(REQUEST))
            end.sendall(RESPONSE)
        end.recv(1)
        end.close()

    thread = threading.Thread(target=serve)
    thread.start()
    end = for_client.wrap_socket(socket.create_connection(listener.getsockname()), server_hostname="name.test")
    ports = end.getsockname()[1], listener.getsockname()[1]
    for _ in range(ROUNDS):
        end.sendall(REQUEST)
        exactly(end, len(RESPONSE))
    end.close()
    thread.join()
    tell("sockets", *ports)


async def through_memory():
    """Python moves the bytes between libssl's memory and the sockets."""
    for_server, for_client = contexts()
    done = asyncio.Event()

    async def serve(reader, writer):
        for _ in range(ROUNDS):
            await reader.readexactly(len(REQUEST))
            writer.write(RESPONSE)
            await writer.drain()
        writer.close()
        done.set()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=for_server)
    address = server.sockets[0].getsockname()
    reader, writer = await asyncio.open_connection(*address, ssl=for_client, server_hostname="name.test")
    ports = writer.get_extra_info("sockname")[1], address[1]
    for _ in range(ROUNDS):
        writer.write(REQUEST)
        await reader.readexactly(len(RESPONSE))
    await done.wait()
    writer.close()
    tell("memory", *ports)


print("ready", flush=True)
sys.stdin.readline()
if sys.argv[1] == "sockets":
    sockets()
else:
    asyncio.run(through_memory())
