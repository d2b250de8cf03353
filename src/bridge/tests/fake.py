"""A stdio server that does what its tests ask for. Not here: the tests."""
import json, os, signal, subprocess, sys, time

mode = sys.argv[1] if len(sys.argv) > 1 else ""
if mode == "stillborn":
    print("cannot start: no luck", file=sys.stderr, flush=True)
    sys.exit(1)
if mode == "slow":
    time.sleep(0.5)
if mode == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def send(message):
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def text(value):
    return {"content": [{"type": "text", "text": str(value)}]}


def call(name, arguments, meta, ident):
    if name == "echo":
        return text(arguments["text"])
    if name == "pid":
        return text(os.getpid())
    if name == "env":
        return text(json.dumps(dict(os.environ)))
    if name == "cwd":
        return text(os.getcwd())
    if name == "fds":
        return text(json.dumps(sorted(os.listdir("/proc/self/fd"))))
    if name == "die":
        print("about to die", file=sys.stderr)
        print("last words", file=sys.stderr, flush=True)
        os._exit(3)
    if name == "rubbish":
        print("Hello, I am a banner", flush=True)
        print('["not a message"]', flush=True)
        return text("clean")
    if name == "long":
        for _ in range(100):
            sys.stdout.write("x" * 1_000_000)
        sys.stdout.write("\n")
        return text("after")
    if name == "long_answer":
        return text("x" * 5_000_000)
    if name == "deaf":
        time.sleep(3600)
    if name == "hang":
        return None
    if name == "progress":
        for n in range(arguments["times"]):
            params = {"progressToken": meta["progressToken"], "progress": n}
            send({"jsonrpc": "2.0", "method": "notifications/progress", "params": params})
        return text(arguments.get("text", "done"))
    if name == "log":
        send({"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": "hi"}})
        return text("logged")
    if name == "change":
        send({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"})
        send({"jsonrpc": "2.0", "method": "notifications/resources/updated", "params": {"uri": arguments["uri"]}})
        return text("changed")
    if name == "ask":
        send({"jsonrpc": "2.0", "id": "s1", "method": "sampling/createMessage", "params": {}})
        send({"jsonrpc": "2.0", "id": "s2", "method": "ping"})
        answers = [json.loads(sys.stdin.readline()) for _ in range(2)]
        return text(json.dumps(answers))
    if name == "sample":
        send({"jsonrpc": "2.0", "id": "s1", "method": "sampling/createMessage", "params": {"n": arguments.get("n")}})
        return text(json.dumps(json.loads(sys.stdin.readline())))
    if name == "fork":
        script = "import signal,time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(3600)"
        child = subprocess.Popen(
            [sys.executable, "-c", script],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            start_new_session=arguments.get("session", False),
        )
        child.stdout.readline()
        return text(child.pid)
    raise KeyError(name)


cancelled, roots = [], None
for line in sys.stdin:
    message = json.loads(line)
    method, ident = message.get("method"), message.get("id")
    params = message.get("params") or {}
    result = {}
    if method == "notifications/initialized" and mode == "rooted":
        send({"jsonrpc": "2.0", "id": 7, "method": "roots/list"})
    if ident == 7 and "result" in message:
        roots = message["result"]
        continue
    if method == "notifications/cancelled":
        cancelled.append(params["requestId"])
    if ident is None:
        continue
    if method == "initialize":
        capabilities = params["capabilities"]
        result = {"protocolVersion": "2025-11-25", "capabilities": capabilities, "serverInfo": {"name": "fake"}}
    elif method == "server/discover":
        if mode == "modern":
            result = {"supportedVersions": ["2026-07-28"]}
        else:
            send({"jsonrpc": "2.0", "id": ident, "error": {"code": -32601, "message": "no"}})
            continue
    elif method == "subscriptions/listen":
        key = "io.modelcontextprotocol/subscriptionId"
        for name in ("subscriptions/acknowledged", "tools/list_changed"):
            note = {"jsonrpc": "2.0", "method": "notifications/" + name, "params": {"_meta": {key: ident}}}
            send(note)
        continue
    elif method == "tools/call":
        if params["name"] == "roots":
            result = text(json.dumps(roots))
        elif params["name"] == "cancelled":
            result = text(json.dumps(cancelled))
        else:
            result = call(params["name"], params.get("arguments") or {}, params.get("_meta") or {}, ident)
        if result is None:
            continue
    send({"jsonrpc": "2.0", "id": ident, "result": result})
if mode == "stubborn":
    time.sleep(3600)
