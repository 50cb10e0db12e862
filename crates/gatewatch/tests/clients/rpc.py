"""gRPC by grpcio, as a server or as a client.

serve NAME PORT TLS_PORT CERT KEY   as a process of that name, until it is ended
load TARGET TIMES [CERT]            each method of `CALLS` so many times, mixed, over two channels of eight callers; tells as
                                    JSON how often each method ended with each status
"""

import collections
import concurrent.futures
import json
import random
import sys
import threading
import time

import grpc

SERVICE = "shop.v1.Cart"


def unary(request, context):
    return request


def listed(request, context):
    for _ in range(10):
        yield b"item"


def filled(requests, context):
    return str(sum(map(len, requests))).encode()


def chat(requests, context):
    yield from requests


def missing(request, context):
    context.abort(grpc.StatusCode.NOT_FOUND, "no such cart")


def denied(request, context):
    context.abort(grpc.StatusCode.PERMISSION_DENIED, "not yours")


def broken(request, context):
    raise RuntimeError("a fault of the server's")


def torn(request, context):
    yield from (b"one", b"two")
    context.abort(grpc.StatusCode.DATA_LOSS, "after two messages")


def late(request, context):
    time.sleep(0.3)
    return b""


def endless(request, context):
    while context.is_active():
        yield b"more"
        time.sleep(0.01)


HANDLERS = {
    "Get": grpc.unary_unary_rpc_method_handler(unary),
    "List": grpc.unary_stream_rpc_method_handler(listed),
    "Fill": grpc.stream_unary_rpc_method_handler(filled),
    "Chat": grpc.stream_stream_rpc_method_handler(chat),
    "Missing": grpc.unary_unary_rpc_method_handler(missing),
    "Denied": grpc.unary_stream_rpc_method_handler(denied),
    "Broken": grpc.unary_unary_rpc_method_handler(broken),
    "Torn": grpc.unary_stream_rpc_method_handler(torn),
    "Late": grpc.unary_unary_rpc_method_handler(late),
    "Endless": grpc.unary_stream_rpc_method_handler(endless),
}


def messages():
    return iter([b"a", b"bb" * 1000, b"ccc"])


def cancelled(channel, path):
    call = channel.unary_stream(path)(b"")
    next(call)
    call.cancel()
    list(call)


CALLS = {
    "Get": lambda channel, path: channel.unary_unary(path)(b"cart", metadata=[("x-trace", str(random.random()))]),
    "List": lambda channel, path: list(channel.unary_stream(path)(b"")),
    "Fill": lambda channel, path: channel.stream_unary(path)(messages()),
    "Chat": lambda channel, path: list(channel.stream_stream(path)(messages())),
    "Missing": lambda channel, path: channel.unary_unary(path)(b""),
    "Denied": lambda channel, path: list(channel.unary_stream(path)(b"")),
    "Broken": lambda channel, path: channel.unary_unary(path)(b""),
    "Torn": lambda channel, path: list(channel.unary_stream(path)(b"")),
    "Nothing": lambda channel, path: channel.unary_unary(path)(b""),
    "Late": lambda channel, path: channel.unary_unary(path)(b"", timeout=0.05),
    "Endless": cancelled,
}


def serve(name, port, tls_port, cert, key):
    with open("/proc/self/comm", "w") as comm:
        comm.write(name)
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(32))
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, HANDLERS)])
    with open(cert, "rb") as certs, open(key, "rb") as keys:
        credentials = grpc.ssl_server_credentials([(keys.read(), certs.read())])
    server.add_secure_port(f"127.0.0.1:{tls_port}", credentials)
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    server.wait_for_termination()


def load(target, times, cert=None):
    calls = [method for method in CALLS for _ in range(int(times))]
    random.shuffle(calls)
    seen = collections.defaultdict(collections.Counter)
    lock = threading.Lock()

    def work(channel):
        while True:
            with lock:
                if not calls:
                    return
                method = calls.pop()
            status = "OK"
            try:
                CALLS[method](channel, f"/{SERVICE}/{method}")
            except grpc.RpcError as error:
                status = error.code().name
            with lock:
                seen[method][status] += 1

    channels = []
    for number in range(2):
        options = [("grpc.use_local_subchannel_pool", 1)]
        if cert:
            with open(cert, "rb") as certs:
                credentials = grpc.ssl_channel_credentials(certs.read())
            channels.append(grpc.secure_channel(target, credentials, options))
        else:
            channels.append(grpc.insecure_channel(target, options))
    workers = [threading.Thread(target=work, args=(channel,)) for channel in channels for _ in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for channel in channels:
        channel.close()
    print(json.dumps(seen))


(serve if sys.argv[1] == "serve" else load)(*sys.argv[2:])
