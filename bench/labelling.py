"""Fifty doctors on one ranking page: how long it takes to answer, and whether a ranking is lost.

`python -m bench.labelling`. The server is `zj label` in a process of its own, over HTTP; the doctors are asyncio tasks
in this one, each with a session of their own: open an item, think (exponential, a second on average, where a real
doctor takes a minute), send the ranking, go on. They come one after the other, as far apart as their rankings. Printed
are p50, p95 and p99 of both requests, and how many of the rankings that were acknowledged are not in the store, or not
as they were sent.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import psutil

from bench.ceilings import table
from tests.helpers.labelling import accounts, field_of, make_run, server
from zj_ray.config.schema import LabelConfig
from zj_ray.labelling.desk import display_order
from zj_ray.labelling.server import open_page

DOCTORS, RANKINGS, THINK = 50, 10_000, 1.0
CONFIG = LabelConfig(overlap=0.1, gold=0.0)


@dataclass
class Load:
    """What the requests took, and what was acknowledged.

    seconds: of each request, by kind. sent: ranks [answers] of every acknowledged ranking, in the store's order, by
    (item, annotator).
    """

    seconds: dict[str, list[float]] = field(default_factory=lambda: {"open an item": [], "save a ranking": []})
    sent: dict[tuple[str, str], tuple[int, ...]] = field(default_factory=dict)
    wall: float = 0.0
    cpu: float = 0.0  # of the server [s]
    others: float = 0.0  # share of the machine's CPU time that neither the server nor the doctors used

    def percentile(self, share: float, kind: str | None = None) -> float:
        """A percentile of the seconds of one kind of request, or of both."""
        return float(np.percentile(self.seconds[kind] if kind else sum(self.seconds.values(), []), share))

    def lost(self, run: Path) -> int:
        """The number of rankings that the store lacks, has in another form, or has unasked."""
        page = open_page(run / "feedback", CONFIG)
        rankings = page.store.all_rankings()
        in_store = {(item, r.annotator): r.overall for item, of_item in rankings.items() for r in of_item}
        page.store.close()
        changed = sum(in_store.get(key) != ranks for key, ranks in self.sent.items())
        return changed + len(in_store.keys() - self.sent.keys())


async def work(http: httpx.AsyncClient, name: str, token: str, rankings: int, think: float, load: Load) -> None:
    """One doctor: signs in, then ranks so many items, or until there are none left. http: theirs alone."""
    chance = random.Random(name)

    async def pause() -> None:
        await asyncio.sleep(chance.expovariate(1 / think) if think else 0.0)

    await pause()  # fifty sign in within seconds, not in the same instant
    async with http:
        csrf = field_of((await http.get("/login")).text, 'name="csrf" value')
        await http.post("/login", data={"token": token, "csrf": csrf})
        for _ in range(rankings):
            started = time.perf_counter()
            page = (await http.get("/")).text
            load.seconds["open an item"].append(time.perf_counter() - started)
            if 'id="task"' not in page:
                return
            task = {each: field_of(page, f"data-{each}") for each in ("item", "key", "csrf")}
            await pause()
            ranks = [chance.randint(1, 4) for _ in range(4)]
            body = {"item": task["item"], "key": task["key"], "overall": ranks, "comment": "请补充用药史"}
            started = time.perf_counter()
            answer = await _send(http, body, task["csrf"])
            load.seconds["save a ranking"].append(time.perf_counter() - started)
            assert answer.status_code == 200, answer.text
            load.sent[task["item"], name] = _stored(ranks, task["item"], name)


async def _send(http: httpx.AsyncClient, body: dict[str, object], csrf: str) -> httpx.Response:
    """Send a ranking as the page does: again when the connection fails, which is safe, as the ranking carries a key."""
    for _ in range(4):
        with contextlib.suppress(httpx.TransportError):
            return await http.post("/api/rank", json=body, headers={"X-CSRF": csrf})
    return await http.post("/api/rank", json=body, headers={"X-CSRF": csrf})


def simulate(run: Path, doctors: int, rankings: int, think: float) -> Load:
    """Let `doctors` make `rankings` at once on a run's page. think: mean pause between opening and saving [s]."""
    tokens = accounts(run, CONFIG, **{f"doctor{n}": "annotator" for n in range(doctors)})
    load = Load()
    # One for all: to read the certificates takes 25 ms, fifty times, in which no other doctor's answer is heard.
    tls = httpx.create_ssl_context()

    async def all_at_once(url: str) -> None:
        each = {"rankings": rankings // doctors, "think": think, "load": load}
        at = {"base_url": url, "timeout": 60.0, "follow_redirects": True, "verify": tls}
        await asyncio.gather(*(work(httpx.AsyncClient(**at), name, token, **each) for name, token in tokens.items()))

    with server(run) as (url, process):
        parts = (psutil.Process(), psutil.Process(process.pid))
        before, started = [sum(part.cpu_times()[:2]) for part in parts], time.perf_counter()
        psutil.cpu_percent()
        asyncio.run(all_at_once(url))
        load.wall, busy = time.perf_counter() - started, psutil.cpu_percent() / 100
        used = [sum(part.cpu_times()[:2]) - first for part, first in zip(parts, before, strict=True)]
        load.cpu, load.others = used[1], busy - sum(used) / load.wall / (psutil.cpu_count() or 1)
    return load


def _stored(ranks: Sequence[int], item: str, name: str) -> tuple[int, ...]:
    """The ranks that the store should hold, by a way of its own: one more than the number of answers before each."""
    by_answer = [rank for _, rank in sorted(zip(display_order(item, name, len(ranks)), ranks, strict=True))]
    return tuple(1 + sum(other < rank for other in by_answer) for rank in by_answer)


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--doctors", type=int, default=DOCTORS)
    parser.add_argument("--rankings", type=int, default=RANKINGS)
    pause = "mean pause between opening an item and saving its ranks [s]"
    parser.add_argument("--think", type=float, default=THINK, help=pause)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        run = make_run(Path(folder) / "run", options.rankings, CONFIG)
        load = simulate(run, options.doctors, options.rankings, options.think)
        lost = load.lost(run)
    rows = [
        [kind, len(seconds), *(f"{1000 * load.percentile(p, kind):.0f}" for p in (50, 95, 99))]
        for kind, seconds in load.seconds.items()
    ]
    print(table(["request", "number", "p50 [ms]", "p95 [ms]", "p99 [ms]"], rows))
    number, cost = len(load.sent), 1000 * load.cpu / len(load.sent)
    pace = f"in {load.wall:.0f} s ({number / load.wall:.0f} a second)"
    print(f"\n{number} rankings by {options.doctors} doctors {pace}; {lost} lost")
    print(f"the server used {cost:.1f} ms of CPU time for each; other work used {load.others:.0%} of the CPUs")


if __name__ == "__main__":
    main(sys.argv[1:])
