"""A thousand Lambdas on paper: a discrete-event model of Lambda's ramp and limits, fed with the real controller.

    python -m benchmarks.fanout_model                 # 10^4, 10^5 and 10^6 invocations: a minute or two
    python -m benchmarks.fanout_model --most 100000

What is modelled: environments come at Lambda's ramp (1,000 at once, 100 a second more) up to a limit that nobody tells
the client; a new one takes a cold start; a request takes its way there and back; what is above is answered 429. A client
is one thread that needs CPU to send and to receive, and does one thing at a time: `asyncpar_lambda.control.Concurrency`
decides what it sends. The ideal is the same Lambda and a client without CPU time that knows what Lambda will take.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import math
import random
import time
from dataclasses import dataclass

from asyncpar_lambda.control import BURST, RAMP, Concurrency
from asyncpar_lambda.cost import COLD_SECONDS, Tariff

WAY = 0.015
"""Seconds from client to Lambda, and as many back."""
SEND, RECEIVE = 180e-6, 110e-6
"""Seconds of the client's CPU for one invocation: 290 us, as measured with `LambdaPool` on the local Lambda."""
TARGET = 1.15


@dataclass(frozen=True)
class Case:
    """What is to be done, and where."""

    invocations: int
    seconds: float
    level: int
    clients: int = 1
    send: float = SEND
    receive: float = RECEIVE


class Lambda:
    """Environments: which are there, and how many may be added."""

    def __init__(self, level):
        self.level = level
        self.busy = self.idle = 0
        self.tokens, self.at = float(BURST), 0.0

    def refill(self, now):
        self.tokens = min(float(BURST), self.tokens + (now - self.at) * RAMP)
        self.at = now

    def takes(self, now):
        """How many invocations it would take now."""
        self.refill(now)
        return min(self.level - self.busy, self.idle + int(self.tokens))

    def invoke(self, now):
        """Seconds until the environment has started, or None for a 429."""
        if self.takes(now) <= 0:
            return None
        self.busy += 1
        if self.idle:
            self.idle -= 1
            return 0.0
        self.tokens -= 1
        return COLD_SECONDS

    def done(self):
        self.busy -= 1
        self.idle += 1


class Oracle:
    """Knows what Lambda will take."""

    def __init__(self, cloud):
        self.cloud, self.coming = cloud, 0

    def room(self, now):
        return max(0, self.cloud.takes(now) - self.coming)

    def delay(self, now):
        return 1 / RAMP if self.cloud.busy + self.cloud.idle + self.coming < self.cloud.level else None

    def begin(self, now):
        self.coming += 1

    def arrived(self):
        self.coming -= 1

    def succeeded(self, now):
        pass


class Client:
    """One thread: it sends what its controller allows, and takes answers."""

    def __init__(self, control, work, case):
        self.control, self.left, self.case = control, work, case
        self.free = self.used = 0.0
        self.timer = math.inf


class Model:
    """Events in the order of their time: (when, number, what, client, began)."""

    def __init__(self, case, ideal=False, seed=1):
        self.case = case
        self.random = random.Random(seed)
        self.cloud = Lambda(case.level)
        self.numbers = itertools.count()
        self.events = []
        self.ended = self.throttled = self.peak = 0
        self.billed = self.now = 0.0
        share = -(-case.invocations // case.clients)
        self.clients = []
        for at in range(case.clients):
            work = min(share, case.invocations - at * share)
            control = (
                Oracle(self.cloud) if ideal else Concurrency(case.invocations, uniform=self.random.uniform)
            )
            if not ideal and case.clients > 1:  # dispatchers share out what Lambda gives at once, and adds
                control = Concurrency(
                    share, burst=BURST // case.clients, ramp=RAMP / case.clients, uniform=self.random.uniform
                )
            self.clients.append(Client(control, work, case))
        self.ideal = ideal

    def run(self):
        begun = (
            0.0 if self.case.clients == 1 else COLD_SECONDS + 2 * WAY
        )  # dispatchers are invocations themselves
        for client in self.clients:
            client.free = begun
            self.put(begun, "wake", client, 0.0)
        while self.ended < self.case.invocations:
            when, _, what, client, began = heapq.heappop(self.events)
            self.now = when
            getattr(self, what)(when, client, began)
        return self

    def put(self, when, what, client, began):
        heapq.heappush(self.events, (when, next(self.numbers), what, client, began))

    def wake(self, now, client, _):
        if now >= client.timer:
            client.timer = math.inf
        self.fill(max(now, client.free), client)

    def fill(self, now, client):
        case = self.case
        while client.left and client.control.room(now) > 0:
            client.control.begin(now)
            client.left -= 1
            now += 0.0 if self.ideal else case.send
            client.used += case.send
            self.put(now + (0.0 if self.ideal else WAY), "arrive", client, now)
        client.free = now
        delay = client.control.delay(now) if client.left else None
        if delay is not None and now + delay < client.timer:
            client.timer = now + max(delay, 1e-3)
            self.put(client.timer, "wake", client, 0.0)

    def arrive(self, now, client, began):
        start = self.cloud.invoke(now)
        if self.ideal:
            client.control.arrived()
        if start is None:
            self.put(now + WAY, "refused", client, began)
            return
        seconds = start + self.case.seconds * self.random.uniform(0.8, 1.2)
        self.billed += seconds
        self.peak = max(self.peak, self.cloud.busy)
        self.put(now + seconds, "finish", client, began)

    def finish(self, now, client, began):
        self.cloud.done()
        self.put(now + (0.0 if self.ideal else WAY), "answer", client, began)

    def answer(self, now, client, _):
        now = self.receive(now, client)
        client.control.succeeded(now)
        self.ended += 1
        self.now = now
        self.fill(now, client)

    def refused(self, now, client, began):
        now = self.receive(now, client)
        self.throttled += 1
        client.left += 1
        client.control.throttled(now, began, "ConcurrentInvocationLimitExceeded")
        self.fill(now, client)

    def receive(self, now, client):
        client.used += self.case.receive
        return max(now, client.free) + (0.0 if self.ideal else self.case.receive)


def cases(most):
    for invocations in (10_000, 100_000, 1_000_000):
        if invocations <= most:
            yield Case(invocations, 1.5, 1_000)
            yield Case(invocations, 10.0, 1_000)
            if invocations >= 100_000:
                for clients in (1, 4, 16):
                    yield Case(invocations, 1.5, 10_000, clients)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--most", type=int, default=1_000_000, help="the largest case, in invocations")
    most = parser.parse_args().most
    tariff = Tariff(1769, "arm64")
    print(
        "| invocations | each | Lambda's limit | clients | time | ideal | ratio | 429 | CPU of a client | dollars |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    begun = time.perf_counter()
    for case in cases(most):
        real = Model(case).run()
        ideal = Model(Case(case.invocations, case.seconds, case.level), ideal=True).run()
        ratio = real.now / ideal.now
        cpu = max(client.used for client in real.clients) / real.now
        print(
            f"| {case.invocations:,} | {case.seconds:g} s | {case.level:,} | {case.clients} | {real.now:,.1f} s "
            f"| {ideal.now:,.1f} s | {ratio:.2f}{'' if ratio <= TARGET else ' (over the goal)'} | {real.throttled:,} "
            f"| {cpu:.0%} | {tariff.dollars(real.billed, case.invocations):,.2f} |",
            flush=True,
        )
    most_rate = 1 / (SEND + RECEIVE)
    print(
        f"\nOne client sends and receives at most {most_rate:,.0f} invocations a second, so it keeps "
        f"{most_rate * 1.5:,.0f} environments busy with invocations of 1.5 s, and {most_rate * 10:,.0f} with 10 s.\n"
        f"The model took {time.perf_counter() - begun:.0f} s."
    )


if __name__ == "__main__":
    main()
