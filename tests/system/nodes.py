"""Several "nodes" on one machine: network namespaces, each with its own host name, address, hosts file and firewall.

A switch (a bridge in a namespace of its own) joins them, so that nothing of the machine's own network is touched.
"""

import ctypes
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
from forked import Forked, Started, forkable

NET, UTS, MOUNTS = 0x40000000, 0x04000000, 0x00020000  # namespaces, of sched.h
BIND, RECURSIVE, PRIVATE = 0x1000, 0x4000, 0x40000  # of sys/mount.h
SUBNET = "10.213.77"
SECONDS = 20  # bound on every command here


@dataclass(frozen=True)
class Node:
    """One node; ``name`` is its host name, which all nodes know."""

    name: str
    address: str
    namespace: str
    etc: Path  # hosts and nsswitch.conf as the nodes see them: they know each other and ask no name server

    def start(self, command: list[str], environment: dict[str, str] | None = None) -> Forked | Started:
        """Run ``command`` there, in a session of its own, its output and errors as one; a Python is forked."""
        reported, words = _env(command)
        given = os.environ | (environment or {})
        if forkable(words):
            move = f"import system.nodes\nsystem.nodes.move({self.name!r}, {self.namespace!r}, {str(self.etc)!r})"
            return Forked(words, given | reported, move)
        files = "for file in hosts nsswitch.conf; do mount --bind $1/$file /etc/$file || exit; done"
        inside = f'hostname "$0" && {files} && shift && exec "$@"'
        unshare = ["unshare", "--uts", "--mount", "--propagation", "private", "sh", "-c", inside, self.name]
        return Started(["nsenter", f"--net=/run/netns/{self.namespace}", *unshare, str(self.etc), *command], given)

    def link(self, up: bool) -> None:
        """Plug the cable in or pull it: packets vanish, nobody is told."""
        _ip("-n", self.namespace, "link", "set", "eth0", "up" if up else "down")

    def drop(self, *ports: str) -> None:
        """A firewall that answers nothing on these TCP ports (``29500`` or ``1024-65535``) to other nodes."""
        lines = ["add table ip firewall", "add chain ip firewall in { type filter hook input priority 0; }"]
        new = "tcp flags & (syn | ack) == syn"  # what was connected, or is connected from here, goes on
        lines += [f'add rule ip firewall in iifname "eth0" tcp dport {port} {new} drop' for port in ports]
        nft = ["ip", "netns", "exec", self.namespace, "nft", "-f", "-"]
        subprocess.run(nft, input="\n".join(lines) + "\n", text=True, check=True, timeout=SECONDS)

    def kill(self) -> None:
        """Power off: every process there gets SIGKILL, those too that are being started."""
        deadline = time.monotonic() + SECONDS
        while pids := _ip("netns", "pids", self.namespace).split():
            assert time.monotonic() < deadline, f"{pids} outlive SIGKILL"
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            time.sleep(0.02)


def missing() -> str:
    """Why there can be no nodes here; empty where there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    lacking = [tool for tool in ("ip", "nft", "unshare", "nsenter") if shutil.which(tool) is None]
    if lacking:
        return f"{', '.join(lacking)} not installed (apt-get install iproute2 nftables)"
    probe = f"dira-{os.getpid()}-probe"
    try:
        _ip("netns", "add", probe)
        _ip("-n", probe, "link", "add", "eth0", "type", "veth", "peer", "name", "eth1")
    except subprocess.CalledProcessError as error:
        return f"no network namespaces: {error.stderr.strip()}"
    finally:
        subprocess.run(["ip", "netns", "del", probe], capture_output=True, timeout=SECONDS)
    return ""


def move(name: str, namespace: str, etc: str) -> None:
    """Carry this process over to a node, as ``start`` does a program that it starts."""
    libc = ctypes.CDLL(None, use_errno=True)
    with Path(f"/run/netns/{namespace}").open() as file:
        _did(libc.setns(file.fileno(), NET))
    _did(libc.unshare(UTS | MOUNTS))
    _did(libc.mount(b"none", b"/", None, RECURSIVE | PRIVATE, None))
    for hosts in ("hosts", "nsswitch.conf"):
        _did(libc.mount(f"{etc}/{hosts}".encode(), f"/etc/{hosts}".encode(), None, BIND, None))
    socket.sethostname(name)


def _env(command: list[str]) -> tuple[dict[str, str], list[str]]:
    """What ``env NAME=VALUE … COMMAND`` sets and runs, where it sets variables alone, and no path of modules."""
    if command[0] != "env":
        return {}, command
    count = next(i for i, word in enumerate(command[1:]) if not re.match(r"[A-Z_0-9]+=", word))
    reported = dict(word.split("=", 1) for word in command[1 : 1 + count])
    return ({}, command) if "PYTHONPATH" in reported else (reported, command[1 + count :])


def _did(code: int) -> None:
    if code:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


@contextmanager
def nodes(count: int = 2) -> Iterator[list[Node]]:
    """``count`` nodes, node-a, node-b …; in the end, whatever happened, nothing of them is left."""
    _sweep()
    prefix = f"dira-{os.getpid()}"
    switch = f"{prefix}-switch"
    with tempfile.TemporaryDirectory() as folder:
        etc = Path(folder)
        made = [Node(f"node-{chr(97 + i)}", f"{SUBNET}.{i + 1}", f"{prefix}-{i}", etc) for i in range(count)]
        lines = [f"{node.address} {node.name}\n::ffff:{node.address} {node.name}\n" for node in made]
        (etc / "hosts").write_text("127.0.0.1 localhost\n" + "".join(lines))
        (etc / "nsswitch.conf").write_text("hosts: files\n")
        try:
            _ip("netns", "add", switch)
            _ip("-n", switch, "link", "add", "bridge", "type", "bridge")
            _ip("-n", switch, "link", "set", "bridge", "up")
            for i, node in enumerate(made):
                _ip("netns", "add", node.namespace)
                ends = ["eth0", "netns", node.namespace, "type", "veth", "peer", "name", f"port{i}", "netns", switch]
                _ip("link", "add", *ends)
                _ip("-n", switch, "link", "set", f"port{i}", "master", "bridge", "up")
                _ip("-n", node.namespace, "addr", "add", f"{node.address}/24", "dev", "eth0")
                for device in ("lo", "eth0"):
                    _ip("-n", node.namespace, "link", "set", device, "up")
            yield made
        finally:
            for node in made:
                if Path(f"/run/netns/{node.namespace}").exists():
                    node.kill()
            _remove(f"{prefix}-")


def _sweep() -> None:
    """Remove what a test that was itself killed has left."""
    for line in _ip("netns", "list").splitlines():
        name = line.split()[0]
        if name.startswith("dira-") and name.split("-")[1].isdigit() and not psutil.pid_exists(int(name.split("-")[1])):
            _remove(name)


def _remove(prefix: str) -> None:
    for line in _ip("netns", "list").splitlines():
        if line.split()[0].startswith(prefix):
            _ip("netns", "del", line.split()[0])


def _ip(*arguments: str) -> str:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=True, timeout=SECONDS)
    return done.stdout
