"""A cache's account of its files: as quick for any number of them, and right again whatever happens to it."""

import functools
import itertools
import multiprocessing
import os
import random
import shutil
import signal
import sys
from collections import Counter
from io import FileIO
from pathlib import Path
from types import SimpleNamespace

import pytest

from dira_scale.train.data.cache import ages, folder
from dira_scale.train.data.cache.ages import FILE, PART, Ages, size_of
from dira_scale.train.data.cache.folder import CacheFolder, Claim


def name_of(number, size=40):
    return f"train-{number:06d}-{number:016x}-{size}.tar"


def listed(path):
    return {item.name: size_of(item.name) for item in os.scandir(path) if size_of(item.name)}


def total(path):
    """Of the files' sizes, which the account agrees with."""
    with Ages(path).held() as known:
        sizes = listed(path)
        parts = sum(size for name, size in sizes.items() if name.endswith(PART))
        assert (known.total, known.fetching) == (sum(sizes.values()), parts)
        return sum(sizes.values())


def fetch(cache, name):
    claim = cache.claim(name, size_of(name))
    if isinstance(claim, FileIO):
        with claim:
            os.close(cache.complete(claim, name))


def four(path):
    """A full cache of three files and of one that was not finished, which were needed in this order."""
    cache = CacheFolder(path, 160)
    for number in range(3):
        fetch(cache, name_of(number))
        os.utime(path / name_of(number), (number, number))
    cache.claim(name_of(3), 40).close()
    return cache


def test_a_claim_asks_the_system_as_often_whatever_is_there(tmp_path):
    asked = []
    for many in (1_000, 50_000):
        cache, calls = CacheFolder(tmp_path / str(many), 10**15), Counter()
        cache.folder.mkdir()
        for number in range(many):
            os.close(os.open(cache.folder / name_of(number), os.O_CREAT))
        cache.used()  # they are counted here

        def note(frame, event, function, calls=calls):
            if event == "c_call" and function.__module__ in ("posix", "fcntl", "io", "mmap"):
                calls[function.__name__] += 1

        for turn, most in enumerate([10**15, *[40 * (many + 1)] * 2]):  # with room; then one has to go for each
            cache.most = most
            sys.setprofile(note)
            claim = cache.claim(name_of(many + turn), 40)
            sys.setprofile(None)
            claim.close()
            if not turn:
                cache.touch([name_of(number) for number in range(2, many)])
        assert listed(cache.folder).keys().isdisjoint([name_of(0), name_of(1)])
        asked.append(calls)
        shutil.rmtree(cache.folder)
    assert asked[0] == asked[1] and calls["unlink"] == 2 and not calls["scandir"]


@pytest.mark.parametrize(("most", "disk"), [(1_500, 10**15), (10**15, 1_500)])
def test_the_same_files_go_as_in_a_model(tmp_path, monkeypatch, most, disk):
    """Their names, from the one that was needed longest ago on. An account of few rows grows, is made anew."""
    clock, utime, draw, seen = itertools.count(1), os.utime, random.Random(1), set()
    monkeypatch.setattr(ages.time, "time_ns", lambda: next(clock))
    monkeypatch.setattr(os, "utime", lambda path: utime(path, ns=(0, next(clock))))
    free = lambda at: SimpleNamespace(free=disk - sum((at / name).stat().st_size for name in listed(at)))  # noqa: E731
    monkeypatch.setattr(folder.shutil, "disk_usage", free)
    for name, value in (("BLOCK", 8), ("NEAR", 4), ("_form", functools.cache(ages._form.__wrapped__))):
        monkeypatch.setattr(ages, name, value)
    cache, there, used = CacheFolder(tmp_path, most), dict[str, int](), {}
    names = [name_of(number, draw.randrange(10, 120)) for number in range(60)]
    (tmp_path / "thesis-0123456789abcdef-100").write_bytes(b"")  # not the cache's

    def need(file):
        there.pop(file, None)
        there[file] = size_of(file)

    def expected(name, part):
        if name in there or part in used:
            return Claim.COMPLETE if name in there else Claim.ELSEWHERE
        new = part not in there
        need(part)
        for file in [*there]:
            if sum(there.values()) > 1_500 and file != part and file not in used:
                del there[file]
        full = sum(there.values()) > 1_500
        if full and new:
            del there[part]
        return Claim.FULL if full else None

    for _ in range(1_500):
        act, name = draw.choice(["claim", "claim", "end", "touch", "open", "lose"]), draw.choice(names)
        part = name + PART
        if act == "claim":
            claim, why = cache.claim(name, size_of(name)), expected(name, part)
            assert claim is why or (why is None and isinstance(claim, FileIO))
            if why is None:
                used[part] = claim
            if why is not Claim.ELSEWHERE and (tmp_path / part).exists():
                os.utime(tmp_path / part)
            seen.add(why)
        elif act == "end" and used:
            file = draw.choice([*used])
            held, name = used.pop(file), file.removesuffix(PART)
            if name == file:
                os.close(held)
            elif draw.random() < 0.8:
                held.truncate(size_of(name))
                os.close(cache.complete(held, name))
                del there[file]
                need(name)
            else:  # as when its process is killed
                held.close()
        elif act == "touch":
            assert (name in there) == (not cache.touch([name]))
            if name in there:
                need(name)
        elif act == "open" and name not in used and (descriptor := cache.open(name)) is not None:
            used[name] = descriptor
        elif act == "lose" and name in there and name not in used and draw.random() < 0.3:
            del there[name]
            cache.drop(name) if draw.random() < 0.5 else (tmp_path / name).unlink()
        assert listed(tmp_path) == there and total(tmp_path) <= 1_500
    assert len(seen) == 4 and (tmp_path / "thesis-0123456789abcdef-100").exists()


def test_wherever_a_process_is_killed_the_next_counts_again(tmp_path, monkeypatch):
    """At each line that it gets to; as on a disk whose times are so coarse that they tell nothing."""
    monkeypatch.setattr(Ages, "_seal", lambda self: 1 + int(self.total))
    for lines in itertools.count(1):
        cache, seen = four(tmp_path / str(lines)), set()
        if not (process := os.fork()):

            def trace(frame, event, _, seen=seen, lines=lines):
                if frame.f_code.co_filename in (ages.__file__, folder.__file__):
                    seen |= {(frame.f_code, frame.f_lineno)} if event == "line" else set()
                    if len(seen) == lines:
                        os.kill(os.getpid(), signal.SIGKILL)
                    return trace
                return None

            sys.settrace(trace)
            fetch(cache, name_of(4, 50))
            cache.drop(name_of(2))
            os._exit(0)
        status = os.waitpid(process, 0)[1]
        total(cache.folder)
        fetch(cache, name_of(5, 160))
        assert listed(cache.folder).keys() == {name_of(5, 160)} and total(cache.folder) == 160
        if not status:
            break
        assert os.WTERMSIG(status) == signal.SIGKILL
    assert lines > 80


def test_several_processes_keep_the_bound_and_the_totals(tmp_path):
    def work(seed):
        cache, draw = CacheFolder(tmp_path, 1_000), random.Random(seed)
        for _ in range(150):
            name = name_of(number := draw.randrange(30), 40 + number)
            if cache.touch([name]):
                fetch(cache, name)
            if (descriptor := cache.open(name)) is not None:
                os.close(descriptor)
            if draw.random() < 0.1:
                cache.drop(name)
            assert total(tmp_path) <= 1_000

    processes = [multiprocessing.get_context("fork").Process(target=work, args=[seed]) for seed in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4


def renamed(path):
    with Ages(path.parent).held() as known:  # as if it were right
        known.put(f"../{name_of(9)}", 0)


def flipped(path):
    content = bytearray(path.read_bytes())
    content[16] ^= 1  # of the total
    path.write_bytes(content)


DAMAGES = {
    "gone": Path.unlink,
    "short": lambda path: os.truncate(path, 1000),
    "noise": lambda path: path.write_bytes(os.urandom(path.stat().st_size)),
    "another total": flipped,
    "a row that leads elsewhere": renamed,
    "a link": lambda path: path.unlink() or path.symlink_to(path.parent.parent / name_of(9)),
    "a file of before": lambda path: (old := path.parent / name_of(8)).touch() or os.utime(old, (0, 0)),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=list(DAMAGES))
def test_a_damaged_account_is_made_again_and_leads_nowhere(tmp_path, damage):
    cache, other = four(tmp_path / "cache"), tmp_path / name_of(9)
    other.write_bytes(bytes(1000))
    damage(cache.folder / FILE)
    fetch(cache, name_of(4))
    assert total(cache.folder) == 160 and other.read_bytes() == bytes(1000)
    assert listed(cache.folder).keys() == {name_of(1), name_of(2), name_of(3) + PART, name_of(4)}
