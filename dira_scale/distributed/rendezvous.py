"""Finding each other, and losing: what keeps processes apart is named before torch connects them, and afterwards.

torch and gloo wait as well, but some of it five times as long, and what they say in the end names no node.
"""

import json
import os
import socket
import time
from datetime import timedelta
from uuid import uuid4

import psutil
import torch.distributed as dist

from dira_scale.errors import UserError

ATTEMPT = 5.0  # seconds until an attempt to connect is given up
KNOCK = 30.0  # seconds in which a process that is known to listen must be reached
PARTING = 10.0  # seconds in which all have read why the start failed


def meet(timeout: int) -> dist.Store | None:
    """Reach the main process, then the next process; None where there is one process only.

    Returns:
        The store over which to connect: what an earlier start has left in the launcher's is not in it.

    Raises:
        UserError: where some process is not reached within ``timeout`` seconds; on all of those that found the main
            one, the same.
    """
    rank, ranks = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if ranks == 1:
        return None
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    with _door() as door:
        if rank > 0:
            _reach(address, port, timeout, "the main process")
        try:
            store, _, _ = next(dist.rendezvous("env://", timeout=timedelta(seconds=timeout)))
            own = dist.PrefixStore(f"start {_agree(store, rank, ranks, timeout)}", store)
            problem = _knock(own, door, rank, ranks, min(KNOCK, timeout / 2))
        except dist.DistError as error:
            if "EADDRINUSE" in str(error):
                raise UserError(
                    f"port {port} of {socket.gethostname()} is taken by another program: give another one to all nodes "
                    "(--main_process_port, --master_port; MASTER_PORT=… for srun)"
                ) from error
            raise UserError(
                f"not all of {ranks} processes came to {address}:{port} within parallel.timeout={timeout} s "
                f"({_brief(error)}): start every node, with the same address, port and number of nodes, and open the "
                "port in the firewall"
            ) from error
    if problem:
        raise UserError(problem)
    return own


def lost(error: BaseException) -> bool:
    """Whether ``error`` says that another process is gone or does not answer any more."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error).lower())


def _agree(store: dist.Store, rank: int, ranks: int, timeout: int) -> str:
    """A name of this start that only its own processes learn.

    An elastic launcher keeps its store, and in it what those that died have written; how often it has restarted each of
    its machines counts for itself. So every process asks with a word of its own, and the main one answers until all
    have taken its answer, which the dead do not.
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
            raise dist.DistStoreError(f"rank(s) {', '.join(map(str, silent))} did not come")
        time.sleep(0.01)
    return name


def _knock(store: dist.Store, door: socket.socket, rank: int, ranks: int, seconds: float) -> str:
    """Each process connects to the next one's ``door`` if that is on another machine; what one of them found wrong.

    So every machine is entered from another one, at a port of any number, as gloo and NCCL will.
    """
    host = socket.gethostname()
    address, port = door.getsockname()[:2]
    store.set(f"door {rank}", json.dumps({"host": host, "address": address, "port": port}))
    after = (rank + 1) % ranks
    other = json.loads(store.get(f"door {after}"))
    if other["host"] != host:
        try:
            _refuse_loopback(other)
            _reach(other["address"], other["port"], seconds, f"rank {after} on {other['host']}")
        except UserError as error:
            store.compare_set("problem", "", str(error))  # the first one stays
    if store.add("tried", 1) == ranks:
        store.set("all tried", "")
    store.wait(["all tried"])
    problem = store.get("problem").decode() if store.check(["problem"]) else ""
    read, deadline = store.add("read", 1), time.monotonic() + PARTING
    while rank == 0 and read < ranks and time.monotonic() < deadline:  # the store ends with the main process
        time.sleep(0.01)
        read = store.add("read", 0)
    return problem


def _door() -> socket.socket:
    """A listening socket where gloo listens: the interface GLOO_SOCKET_IFNAME, else what the host name stands for."""
    interface = os.environ.get("GLOO_SOCKET_IFNAME", "").split(",")[0]
    if interface:
        addresses = psutil.net_if_addrs().get(interface, [])
        usable = [(a.family, a.address) for a in addresses if a.family in (socket.AF_INET, socket.AF_INET6)]
        if not usable:
            have = ", ".join(psutil.net_if_addrs())
            raise UserError(f"GLOO_SOCKET_IFNAME={interface}: {socket.gethostname()} has {have}")
        family, address = usable[0]
    else:
        try:
            found = socket.getaddrinfo(socket.gethostname(), None, type=socket.SOCK_STREAM)
            family, address = found[0][0], str(found[0][4][0])
        except OSError:
            family, address = socket.AF_INET, "127.0.0.1"  # as gloo does
    return socket.create_server((address, 0), family=family)


def _refuse_loopback(other: dict[str, str]) -> None:
    if other["address"].startswith("127.") or other["address"] == "::1":
        raise UserError(
            f"the name of {other['host']} stands for {other['address']} there, where no other machine reaches it: mend "
            "its /etc/hosts, or name the network's interface in GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME"
        )


def _reach(address: str, port: int, seconds: float, whom: str) -> None:
    """Wait until ``address`` accepts a connection."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection((address, port), timeout=ATTEMPT).close()
            return
        except OSError as error:
            unknown = isinstance(error, socket.gaierror) and error.errno == socket.EAI_NONAME
            if unknown or time.monotonic() > deadline:
                waited = "" if unknown else f" within {seconds:g} s"
                here = f"rank {os.environ['RANK']} on {socket.gethostname()}"
                raise UserError(
                    f"{here} does not reach {whom} at {address}:{port}{waited}: {_advice(error)}"
                ) from error
        time.sleep(0.2)


def _advice(error: OSError) -> str:
    if isinstance(error, socket.gaierror):
        return "no such host name here; give an address, or mend DNS or /etc/hosts"
    if isinstance(error, ConnectionRefusedError):
        return "that machine answers, but nothing listens there; start its process, with the same port on all nodes"
    if isinstance(error, TimeoutError):
        return "no answer; open the ports between the nodes in the firewall, or mend the address"
    return f"{error.strerror}; mend the address, or the network between the nodes"


def _brief(error: Exception) -> str:
    return str(error).splitlines()[0].rstrip(".")
