from rustic_host.messaging.held import MIN_SECONDS, Held


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_topic_is_held_up_with_what_stands_behind_it_and_others_are_not() -> None:
    clock = Clock()
    held = Held[int](clock)
    assert (bool(held), held.seconds_left(), held.take_due()) == (False, None, [])
    held.hold("t", 1, 5)
    held.follow("t", 2)
    held.hold("u", 3, 2)
    assert ("t" in held, "v" in held, held.topics, held.seconds_left()) == (True, False, ["t", "u"], 2)
    clock.now += 2
    assert held.take_due() == [3]
    assert held.seconds_left() == 3
    clock.now += 10
    held.hold("u", 4, 0)
    clock.now += 1
    assert held.take_due() == [1, 2, 4]  # who was due first comes first
    assert not held


def test_nothing_is_due_at_once() -> None:
    held = Held[int](Clock())
    held.hold("t", 1, 0)
    assert held.take_due() == []
    assert held.seconds_left() is not None
    assert 0 < (held.seconds_left() or 0) <= MIN_SECONDS * 1.01


def test_what_is_held_can_be_dropped() -> None:
    held = Held[int](Clock())
    for topic in ("t", "u", "v"):
        held.hold(topic, 1, 1)
    held.forget(["t", "x"])
    assert held.topics == ["u", "v"]
    held.clear()
    assert not held


def test_what_is_set_aside_comes_back_at_its_time_and_holds_nothing_up() -> None:
    clock = Clock()
    held = Held[int](clock)
    held.set_aside(1, 5)
    held.hold("t", 2, 3)
    assert (bool(held), held.topics, held.aside, held.seconds_left()) == (True, ["t"], [1], 3)
    clock.now += 4
    assert held.take_due() == [2]
    clock.now += 1
    assert held.take_due() == [1]
    held.set_aside(3, 1)
    held.clear()
    assert not held
