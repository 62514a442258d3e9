"""The prober on its own: who is asked, by what way, and what it costs when somebody hangs or lies."""

import asyncio
from collections.abc import Callable

from mochi_api.heartbeat import Heartbeat
from mochi_operator.cluster import RefusedError, UnavailableError
from mochi_operator.prober import Prober, Target
from tests.operator.fake_cluster import Clock, FakeCluster
from tests.operator.world import heartbeat

KEY = ("videos", "dissolve")


class Pods:
    """Addresses and what is answered there: a sign, silence, an error, or nothing ever."""

    def __init__(self) -> None:
        self.answers: dict[str, Heartbeat | Exception | None] = {}
        self.hanging: set[str] = set()
        self.asked: list[str] = []

    async def ask(self, address: str) -> Heartbeat | None:
        self.asked.append(address)
        if address in self.hanging:
            await asyncio.Event().wait()
        answer = self.answers.get(address)
        if isinstance(answer, Exception):
            raise answer
        return answer


def target(pod: str = "p", address: str = "10.0.0.1", uid: str = "u") -> Target:
    return Target(namespace="videos", pod=pod, uid=uid, container="pytorch", address=address)


class Scene:
    """A prober, the pods it asks, the logs it reads and who was woken."""

    def __init__(self, **polling: float) -> None:
        self.clock = Clock()
        self.cluster = FakeCluster(self.clock)
        self.pods = Pods()
        self.seconds = 0.0
        self.woken: list[tuple[str, str]] = []
        self.prober = Prober(
            self.pods, self.cluster, lambda: self.seconds, self.woken.append, told_seconds=30, **polling
        )

    async def __aenter__(self) -> "Scene":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.prober.close()

    async def aimed(self, aim: Target, key: tuple[str, str] = KEY):
        """What is known after the first question."""
        self.prober.aim(key, aim)
        await until(lambda: self.first(key))
        return self.prober.reading(key)

    def first(self, key: tuple[str, str]) -> bool:
        reading = self.prober.reading(key)
        return reading is not None and (reading.heartbeat is not None or reading.silent > 0)


async def until(condition: Callable[[], bool]) -> None:
    """Let the tasks have their turns, no more than they need."""
    for _ in range(200):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it did not come to that within 200 turns of the loop")


async def test_an_address_that_answers_is_the_first_way():
    async with Scene() as scene:
        scene.pods.answers["10.0.0.1"] = heartbeat(done=7)
        scene.cluster.logs["p"] = heartbeat(done=1).to_line()
        reading = await scene.aimed(target())
        assert (reading.heartbeat.done, reading.by_log, reading.silent) == (7, False, 0)
        scene.seconds += 7
        assert (reading.age_seconds, scene.prober.reading(KEY).age_seconds) == (0, 7)
        assert scene.woken == [KEY]


async def test_where_the_address_does_not_answer_the_log_does():
    """A NetworkPolicy, or strict mTLS."""
    async with Scene() as scene:
        scene.cluster.logs["p"] = (
            f"noise\n{heartbeat(done=4).to_line()}\n{heartbeat(done=5).to_line()}\nmore\n"
        )
        reading = await scene.aimed(target())
        assert (reading.heartbeat.done, reading.by_log) == (5, True)


async def test_a_line_of_the_log_from_before_the_last_answer_takes_nothing_back():
    """A pod that has just ended answers no more, and its log has a line only every 15 s."""
    async with Scene(poll_seconds=0, log_poll_seconds=0) as scene:
        scene.pods.answers["10.0.0.1"] = heartbeat(done=7)
        await scene.aimed(target())
        scene.pods.answers["10.0.0.1"] = None
        scene.cluster.logs["p"] = heartbeat(done=5).to_line()
        await until(lambda: scene.prober.reading(KEY).silent > 0)
        assert scene.prober.reading(KEY).heartbeat.done == 7
        scene.cluster.logs["p"] = heartbeat(done=8).to_line()
        await until(lambda: scene.prober.reading(KEY).by_log and not scene.prober.reading(KEY).silent)
        assert scene.prober.reading(KEY).heartbeat.done == 8


async def test_a_pod_without_an_address_is_read_by_its_log_only():
    async with Scene() as scene:
        scene.cluster.logs["p"] = heartbeat(done=5).to_line()
        reading = await scene.aimed(target(address=""))
        assert reading.heartbeat.done == 5
        assert scene.pods.asked == []


async def test_a_log_that_is_silent_is_told_apart_from_one_that_cannot_be_read():
    async with Scene() as scene:
        scene.cluster.logs["p"] = "no sign of life\n"
        assert (await scene.aimed(target())).log_readable
    for error in (
        RefusedError("may not read logs", cause="forbidden", code=403),
        UnavailableError("the kubelet does not answer"),
    ):
        async with Scene() as scene:
            scene.cluster.log_error = error
            reading = await scene.aimed(target())
            assert (reading.silent, reading.log_readable) == (1, False)


async def test_a_pod_that_hangs_holds_up_no_other():
    async with Scene() as scene:
        for number in range(8):
            scene.pods.hanging.add(f"10.0.1.{number}")
            scene.prober.aim(("videos", f"hangs-{number}"), target(address=f"10.0.1.{number}"))
        await asyncio.sleep(0)
        scene.pods.answers["10.0.0.1"] = heartbeat(done=7)
        assert (await scene.aimed(target())).heartbeat.done == 7
        assert not scene.first(("videos", "hangs-0"))


async def test_a_defect_met_by_one_pod_ends_no_questions():
    async with Scene() as scene:
        scene.pods.answers["10.0.0.1"] = ZeroDivisionError()
        scene.pods.answers["10.0.0.2"] = heartbeat(done=7)
        reading = await scene.aimed(target())
        assert (reading.silent, reading.heartbeat) == (1, None)
        assert (await scene.aimed(target("q", "10.0.0.2"), ("videos", "other"))).heartbeat.done == 7


async def test_another_pod_of_the_same_run_starts_anew():
    async with Scene() as scene:
        scene.pods.answers["10.0.0.1"] = heartbeat(done=7)
        await scene.aimed(target())
        scene.prober.aim(KEY, target("q", "10.0.0.9", uid="v"))
        reading = scene.prober.reading(KEY)
        assert (reading.pod_uid, reading.heartbeat) == ("v", None)


async def test_the_same_aim_again_asks_no_sooner():
    async with Scene() as scene:
        scene.pods.answers["10.0.0.1"] = heartbeat()
        await scene.aimed(target())
        for _ in range(50):
            scene.prober.aim(KEY, target())
            await asyncio.sleep(0)
        assert scene.pods.asked == ["10.0.0.1"]


async def test_nobody_is_asked_for_a_run_that_is_gone():
    async with Scene() as scene:
        scene.pods.hanging.add("10.0.0.1")
        scene.prober.aim(KEY, target())
        await asyncio.sleep(0)
        scene.prober.aim(KEY, None)
        await asyncio.sleep(0)
        assert scene.prober.reading(KEY) is None
        assert scene.woken == []


async def test_closing_ends_every_task():
    scene = Scene()
    for number in range(30):
        scene.pods.hanging.add(f"10.0.1.{number}")
        scene.prober.aim(("videos", f"run-{number}"), target(address=f"10.0.1.{number}"))
    await asyncio.sleep(0)
    await scene.prober.close()
    assert asyncio.all_tasks() == {asyncio.current_task()}
