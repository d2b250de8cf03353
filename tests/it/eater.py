"""A stdio server that takes what it can get: each tool tries something and says how far it came."""
import json, os, resource, signal, socket, subprocess, sys, time

kept = []


def memory(mib):
    # Written to, so that it is there and not only promised.
    kept.append(bytearray(b"x") * (mib << 20))
    return len(kept[-1])


def cpu(seconds):
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass
    return time.process_time()


def files(count):
    try:
        while len(kept) < count:
            kept.append(open("/dev/null"))
    finally:
        got = len(kept)
        del kept[:]
    return got


def fork(count):
    pids = []
    try:
        for _ in range(count):
            pid = os.fork()
            if pid == 0:
                signal.pause()
                os._exit(0)
            pids.append(pid)
    except OSError:
        pass
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    return len(pids)


def write(path, kib=1):
    with open(path, "wb") as file:
        for _ in range(kib):
            file.write(b"x" * 1024)
            file.flush()
    return os.path.getsize(path)


def cut(path):
    os.truncate(path, 0)
    return os.path.getsize(path)


def read(path):
    with open(path) as file:
        return file.read()


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout.strip() or "%d %s" % (done.returncode, done.stderr)


def tcp(port):
    with socket.create_connection(("127.0.0.1", port), timeout=5) as peer:
        return peer.recv(16).decode()


def udp(port):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        return peer.sendto(b"udp", ("127.0.0.1", port))


def send_signal(pid):
    os.kill(pid, 0)
    return "sent"


def lift(name):
    limit = getattr(resource, "RLIMIT_" + name)
    resource.setrlimit(limit, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    return "lifted"


def limit(name):
    return list(resource.getrlimit(getattr(resource, "RLIMIT_" + name)))


def status(key):
    with open("/proc/self/status") as file:
        return next(line.split()[1] for line in file if line.startswith(key + ":"))


def stay():
    """From now on only SIGKILL ends it."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if os.fork() == 0:
        os._exit(0)
    kept.append("deaf")
    return os.getpid()


TOOLS = {
    "memory": memory, "cpu": cpu, "files": files, "fork": fork, "write": write, "cut": cut, "read": read, "run": run,
    "tcp": tcp, "udp": udp, "signal": send_signal, "lift": lift, "limit": limit, "status": status, "stay": stay,
    "env": lambda: dict(os.environ), "argv": lambda: sys.argv, "pid": os.getpid, "who": lambda: [os.getuid(), os.getgid(), os.getgroups()],
}


def say(message):
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def answer(message):
    method, params = message["method"], message.get("params", {})
    if method == "initialize":
        return {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}},
                "serverInfo": {"name": "eater", "version": "1"}}
    if method == "tools/list":
        return {"tools": [{"name": name, "inputSchema": {"type": "object"}} for name in TOOLS]}
    if method != "tools/call":
        return {}
    try:
        got = {"got": TOOLS[params["name"]](*params["arguments"].get("with", []))}
    except Exception as error:
        got = {"failed": "%s %s" % (type(error).__name__, error)}
    return {"content": [{"type": "text", "text": json.dumps(got)}]}


for line in sys.stdin:
    message = json.loads(line)
    if "id" in message and "method" in message:
        say({"jsonrpc": "2.0", "id": message["id"], "result": answer(message)})
while kept and kept[-1] == "deaf":
    time.sleep(1)
