"""Checks that all processes can reach each other before torch connects them, and names the problem if they cannot.

torch and gloo have timeouts, too, but some are five times as long, and their messages name no node.
"""

import json
import os
import socket
import time
from datetime import timedelta
from uuid import uuid4

import psutil
import torch.distributed as dist

from dira_scale.base.errors import UserError

ATTEMPT_SECONDS = 5.0  # timeout of one attempt to connect
CONNECT_SECONDS = 30.0  # within which a process that is known to listen must be reached
READ_SECONDS = 10.0  # within which all processes have read the result
# What the errors of a lost connection say, in lower case: gloo's have its file's name, but for those of collectives
# that were under way, or begin, when another of the same group has waited too long.
OF_GLOO = ("gloo", "application timeout caused pair closure")


def meet(timeout: int) -> dist.Store | None:
    """Connect to the main process, then to the next rank.

    Returns:
        The store through which to connect, free of entries that an earlier start left in the launcher's; None with a
        single process.

    Raises:
        UserError: a process is not reached within ``timeout`` seconds. All that reached the main process raise the
            same.
    """
    rank, ranks = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if ranks == 1:
        return None
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    with _listen() as listener:
        if rank > 0:
            _reach(address, port, timeout, "the main process")
        try:
            store, _, _ = next(dist.rendezvous("env://", timeout=timedelta(seconds=timeout)))
            private = dist.PrefixStore(f"start {_agree_on_name(store, rank, ranks, timeout)}", store)
            problem = _reach_next(private, listener, rank, ranks, min(CONNECT_SECONDS, timeout / 2))
        except dist.DistError as error:
            if "EADDRINUSE" in str(error):
                raise UserError(
                    f"port {port} of {socket.gethostname()} is taken by another program: set another one on all nodes "
                    "(--main_process_port, --master_port; MASTER_PORT=… for srun)"
                ) from error
            reason = str(error).splitlines()[0].rstrip(".")
            raise UserError(
                f"not all of {ranks} processes connected to {address}:{port} within parallel.timeout={timeout} s "
                f"({reason}): start every node, with the same address, port and number of nodes, and open the "
                "port in the firewall"
            ) from error
    if problem:
        raise UserError(problem)
    return private


def is_connection_lost(error: BaseException) -> bool:
    """Return whether ``error`` means that another process is gone or no longer answers."""
    if isinstance(error, dist.DistError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in OF_GLOO)


def _agree_on_name(store: dist.Store, rank: int, ranks: int, timeout: int) -> str:
    """A name for this start, known only to its own processes.

    An elastic launcher keeps its store, with entries of processes that have died, and each of its machines counts
    restarts by itself. So every process asks with a random word, and the main one answers until all have confirmed,
    which dead processes do not.
    """
    name = uuid4().hex
    if rank > 0:
        store.set(f"rank {rank} asks", name)
        name = store.get(f"answer to {name}").decode()
        store.set(f"rank {rank} took {name}", "")
        return name
    silent, deadline = list(range(1, ranks)), time.monotonic() + timeout
    while silent := [other for other in silent if not store.check([f"rank {other} took {name}"])]:
        for other in silent:
            if store.check([f"rank {other} asks"]):
                store.set(f"answer to {store.get(f'rank {other} asks').decode()}", name)
        if time.monotonic() > deadline:
            raise dist.DistStoreError(f"rank(s) {', '.join(map(str, silent))} did not connect")
        time.sleep(0.01)
    return name


def _reach_next(store: dist.Store, listener: socket.socket, rank: int, ranks: int, seconds: float) -> str:
    """Connect to the next rank's ``listener`` if it is on another machine; returns the first problem of any process.

    So every machine is reached from another one at a random port, as gloo and NCCL will do.
    """
    host = socket.gethostname()
    address, port = listener.getsockname()[:2]
    store.set(f"listener {rank}", json.dumps({"host": host, "address": address, "port": port}))
    following = (rank + 1) % ranks
    other = json.loads(store.get(f"listener {following}"))
    if other["host"] != host:
        try:
            if other["address"].startswith("127.") or other["address"] == "::1":
                raise UserError(
                    f"{other['host']} resolves its own name to {other['address']}, which no other machine can reach: "
                    "fix its /etc/hosts, or set GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME to the network's interface"
                )
            _reach(other["address"], other["port"], seconds, f"rank {following} on {other['host']}")
        except UserError as error:
            store.compare_set("problem", "", str(error))  # keeps the first one
    if store.add("tried", 1) == ranks:
        store.set("all tried", "")
    store.wait(["all tried"])
    problem = store.get("problem").decode() if store.check(["problem"]) else ""
    read, deadline = store.add("read", 1), time.monotonic() + READ_SECONDS
    while rank == 0 and read < ranks and time.monotonic() < deadline:  # the main process holds the store
        time.sleep(0.01)
        read = store.add("read", 0)
    return problem


def _listen() -> socket.socket:
    """A listening socket where gloo listens: the interface GLOO_SOCKET_IFNAME, else the host name's address."""
    interface = os.environ.get("GLOO_SOCKET_IFNAME", "").split(",")[0]
    if interface:
        addresses = psutil.net_if_addrs().get(interface, [])
        usable = [(a.family, a.address) for a in addresses if a.family in (socket.AF_INET, socket.AF_INET6)]
        if not usable:
            have = ", ".join(psutil.net_if_addrs())
            raise UserError(f"GLOO_SOCKET_IFNAME={interface}: no such interface; {socket.gethostname()} has {have}")
        family, address = usable[0]
    else:
        try:
            addresses = socket.getaddrinfo(socket.gethostname(), None, type=socket.SOCK_STREAM)
            family, address = addresses[0][0], str(addresses[0][4][0])
        except OSError:
            family, address = socket.AF_INET, "127.0.0.1"  # as gloo does
    return socket.create_server((address, 0), family=family)


def _reach(address: str, port: int, seconds: float, whom: str) -> None:
    """Wait until ``address`` accepts a connection."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection((address, port), timeout=ATTEMPT_SECONDS).close()
            return
        except OSError as error:
            failure = error
        unknown = isinstance(failure, socket.gaierror) and failure.errno == socket.EAI_NONAME
        if unknown or time.monotonic() > deadline:
            break
        time.sleep(0.2)
    if isinstance(failure, socket.gaierror):
        advice = "unknown host name; use an address, or fix DNS or /etc/hosts"
    elif isinstance(failure, ConnectionRefusedError):
        advice = "that machine answers, but nothing listens there; start its process, with the same port on all nodes"
    elif isinstance(failure, TimeoutError):
        advice = "no answer; open the ports between the nodes in the firewall, or fix the address"
    else:
        advice = f"{failure.strerror}; fix the address, or the network between the nodes"
    waited = "" if unknown else f" within {seconds:g} s"
    who = f"rank {os.environ['RANK']} on {socket.gethostname()}"
    raise UserError(f"{who} does not reach {whom} at {address}:{port}{waited}: {advice}") from failure
