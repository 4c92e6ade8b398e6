"""The concurrency controller: in virtual time, with machines that play Lambda."""

from __future__ import annotations

import heapq
import math
import random
from collections import deque

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from asyncpar_lambda.control import RATE_REASONS, Concurrency

CONCURRENT = "ConcurrentInvocationLimitExceeded"


class Machine(RuleBasedStateMachine):
    """Any order of events, at any time, keeps the window sane."""

    def __init__(self):
        super().__init__()
        self.now = 0.0
        self.limit = 50
        self.control = Concurrency(self.limit, burst=10, ramp=1.0)
        self.running = []

    @rule(seconds=st.floats(0, 30))
    def time_passes(self, seconds):
        self.now += seconds

    @rule(most=st.integers(1, 60))
    def start_some(self, most):
        room = self.control.room(self.now)
        for _ in range(min(most, room)):
            assert self.control.room(self.now) > 0
            self.control.begin(self.now)
            self.running.append(self.now)

    @precondition(lambda self: self.running)
    @rule()
    def one_succeeds(self):
        self.running.pop(0)
        self.control.succeeded(self.now)

    @precondition(lambda self: self.running)
    @rule()
    def one_cannot_be_sent(self):
        self.control.unreachable(self.now, self.running.pop(0))

    @precondition(lambda self: self.running)
    @rule()
    def one_fails(self):
        self.running.pop(0)
        self.control.failed()

    @precondition(lambda self: self.running)
    @rule(
        reason=st.sampled_from(
            [CONCURRENT, "ReservedFunctionConcurrentInvocationLimitExceeded", *RATE_REASONS]
        ),
        wish=st.none() | st.floats(0.01, 100),
    )
    def one_is_throttled(self, reason, wish):
        before = self.control.statistics(self.now).window
        self.control.throttled(self.now, self.running.pop(0), reason, wish)
        assert self.control.statistics(self.now).window <= before
        if wish:
            assert self.control.room(self.now) == 0
            assert self.control.delay(self.now) > 0

    @invariant()
    def in_flight_is_what_runs_and_within_the_limit(self):
        state = self.control.statistics(self.now)
        assert state.in_flight == len(self.running)
        assert 1 <= state.window <= self.limit
        assert 0 <= self.control.room(self.now) <= self.limit - state.in_flight

    @invariant()
    def it_never_stands_still_for_ever(self):
        for _ in range(5):
            if self.running or self.control.room(self.now):
                return
            delay = self.control.delay(self.now)
            assert delay is not None
            assert 0 <= delay <= 100  # as long as Lambda may wish here
            self.now += max(delay, 1e-3)
        raise AssertionError("it stands still")


Machine.TestCase.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
TestMachine = Machine.TestCase


class Cloud:
    """Lambda, in virtual time: a level above which it answers 429, which may move, and a ramp."""

    def __init__(
        self,
        control,
        level,
        *,
        seconds=1.0,
        rate=math.inf,
        burst=1000,
        ramp=100.0,
        noise=0.0,
        reason=CONCURRENT,
    ):
        self.control, self.level, self.seconds, self.rate = control, level, seconds, rate
        self.burst, self.ramp, self.noise = burst, ramp, noise
        self.noisy = reason
        self.now = 0.0
        self.events = []  # (when, number, began, throttle)
        self.running = self.done = self.thrown = self.number = self.environments = 0
        self.recent = deque()
        self.random = random.Random(7)

    def run(self, until, calls=math.inf):
        while self.now < until and self.done < calls:
            while self.control.room(self.now) > 0:
                self.start()
            delay = self.control.delay(self.now)
            wake = math.inf if delay is None else self.now + max(delay, 1e-3)
            if not self.events and wake == math.inf:
                raise AssertionError("it stands still")
            if self.events and self.events[0][0] <= wake:
                self.end(*heapq.heappop(self.events))
            else:
                self.now = wake
        return self.now

    def start(self):
        self.control.begin(self.now)
        self.number += 1
        while self.recent and self.recent[0] <= self.now - 1:
            self.recent.popleft()
        # New environments come at the ramp; those that are there are used again.
        most = min(self.level, self.burst + self.ramp * self.now)
        reason = None
        if len(self.recent) >= self.rate:
            reason = "CallerRateLimitExceeded"
        elif self.running >= most:
            reason = CONCURRENT
        elif self.random.random() < self.noise:
            reason = self.noisy
        else:
            self.running += 1
            self.recent.append(self.now)
        seconds = 0.02 if reason else self.seconds * self.random.uniform(0.8, 1.2)
        heapq.heappush(self.events, (self.now + seconds, self.number, self.now, reason))

    def end(self, when, _number, began, reason):
        self.now = when
        if reason:
            self.thrown += 1
            self.control.throttled(when, began, reason)
        else:
            self.running -= 1
            self.done += 1
            self.control.succeeded(when)


def steady(limit=10_000):
    return Concurrency(limit, uniform=random.Random(3).uniform)


def test_it_climbs_with_the_ramp_and_is_never_throttled_by_it():
    cloud = Cloud(steady(2000), 2000)
    cloud.run(14)
    assert cloud.thrown == 0
    assert cloud.control.statistics(cloud.now).window == 2000


def test_it_uses_nearly_all_of_a_limit_that_it_was_not_told():
    cloud = Cloud(steady(), 300, seconds=0.5)
    cloud.run(30)
    assert cloud.done > 0.9 * 300 * 60
    assert cloud.thrown < 0.25 * cloud.done


def test_it_follows_a_limit_that_falls_and_rises():
    cloud = Cloud(steady(), 500)
    cloud.run(10)
    cloud.level = 50
    cloud.run(14)
    done = cloud.done
    cloud.run(30)
    assert cloud.done - done > 0.85 * 50 * 16
    cloud.level = 500
    cloud.run(60)
    done = cloud.done
    cloud.run(70)
    assert cloud.done - done > 0.85 * 500 * 10


def test_it_finds_a_rate_that_is_accepted():
    cloud = Cloud(steady(1000), 10_000, seconds=0.02, rate=500)
    cloud.run(5)
    assert cloud.thrown < 6000  # what a thousand calls at once learn in their first second
    done, thrown = cloud.done, cloud.thrown
    cloud.run(30)
    assert cloud.done - done > 0.8 * 500 * 25
    assert cloud.thrown - thrown < 0.25 * 500 * 25


@pytest.mark.parametrize("reason", [CONCURRENT, "CallerRateLimitExceeded"])
def test_throttles_at_random_do_not_starve_it(reason):
    cloud = Cloud(steady(8), 8, seconds=0.01, noise=0.05, reason=reason)
    cloud.run(20)
    assert cloud.done > 0.6 * 8 / 0.01 * 20


def test_throttles_of_one_moment_count_once():
    control = steady(100)
    for _ in range(100):
        control.begin(0.0)
    for _ in range(20):
        control.throttled(0.1, 0.0, CONCURRENT)
    assert control.statistics(0.1).window == 90
    assert control.statistics(0.1).throttled == {CONCURRENT: 20}


def test_a_wish_is_obeyed_within_reason():
    control = steady(100)
    control.begin(0.0)
    control.throttled(0.0, 0.0, CONCURRENT, 3.0)
    assert control.statistics(0.0).paused == 3.0
    assert control.room(2.9) == 0
    assert control.room(3.1) > 0
    control.begin(4.0)
    control.throttled(4.0, 4.0, CONCURRENT, 1e9)
    assert control.statistics(4.0).paused == 60.0


def test_when_nothing_succeeds_it_waits_longer_and_longer():
    control = Concurrency(10, uniform=lambda low, high: high)
    now, pauses = 0.0, []
    for _ in range(12):
        now += control.statistics(now).paused
        control.begin(now)
        control.throttled(now, now, CONCURRENT)
        pauses.append(control.statistics(now).paused)
    # The first is only news of the limit.
    assert [round(pause, 6) for pause in pauses] == [0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10, 10, 10, 10]


def test_what_fails_together_is_one_failure():
    control = steady(1000)
    for _ in range(1000):
        control.begin(0.0)
    assert [control.unreachable(1.0, 0.0) for _ in range(1000)] == [True] + [False] * 999
    assert control.statistics(1.0).paused < 0.1
    for n in range(2, 3000):  # nor does a long outage overflow anything
        control.begin(float(100 * n))
        assert control.unreachable(100.0 * n + 1, 100.0 * n)
    assert control.statistics(300_000.0).paused <= 10
