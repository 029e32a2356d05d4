"""Light actors for benchmarks: many in one process, that speak the link's protocol over sockets of their own.

One thread asks and hears in turn, so that what is under way at a time is the same with one actor and with a thousand.
"""

import itertools
import time
from collections import deque

BYTES_A_TOKEN = 13  # id, mask, log-prob, version
PATIENCE = 60_000  # ms for an answer


class Actor:
    """A DEALER with a key of its own that asks by number, and the leases it holds."""

    def __init__(self, context, name, keys, server_public, port):
        import zmq

        self.name = name
        self.leases = {}
        self.socket = context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.curve_publickey, self.socket.curve_secretkey = keys
        self.socket.curve_serverkey = server_public
        self.socket.connect(f"tcp://127.0.0.1:{port}")
        self.numbers = itertools.count(1)
        self.answers = {}

    def ask(self, body):
        number = next(self.numbers).to_bytes(8, "big")
        self.socket.send_multipart([number, body], copy=False)
        return number

    def answer(self, number):
        """The body of the answer to a question; what is told besides is passed over."""
        while number not in self.answers:
            if not self.socket.poll(PATIENCE):
                raise SystemExit(f"{self.name}: no answer in {PATIENCE / 1000} s")
            told, body = self.socket.recv_multipart()
            self.answers[told] = body
        self.answers.pop(b"", None)
        return self.answers.pop(number)


class Ours:
    """What light actors say to a gateway, and what they check of its answers."""

    def __init__(self, size):
        import numpy as np

        from common.messages import Trajectory

        count = size // BYTES_A_TOKEN
        sampled = np.arange(count) % 200 >= 140
        edges = np.flatnonzero(np.diff(np.concatenate([[0], sampled, [0]]).astype(np.int8)))
        self.sampled = sampled
        self.made = {
            "token_bytes": (np.arange(count) * 2654435761 % 150_000).astype("<i4").tobytes(),
            "sampled_bytes": sampled.astype("u1").tobytes(),
            "log_prob_bytes": np.where(sampled, -0.5, 0.0).astype("<f4").tobytes(),
            "turn_bytes": edges.astype("<i4").tobytes(),
            "success": False,
            "started_at": 1.7e9,
            "seconds": 1.0,
            "engine_seconds": 0.5,
            "world_seconds": 0.25,
        }
        self.kind = Trajectory
        self.versions = {}

    def hello(self, actor, slots):
        from common.messages import PROTOCOL_VERSION, Hello
        from common.prompt import form_digest
        from common.wire import encode, schema_digest

        said = Hello(
            protocol=PROTOCOL_VERSION,
            actor=actor.name,
            instance="bench",
            slots=slots,
            schema_digest=schema_digest(),
            prompt_digest=form_digest(),
        )
        return encode(said)

    def request(self, count):
        from common.messages import LeaseRequest
        from common.wire import encode

        return encode(LeaseRequest(count=count))

    def granted(self, actor, body, count):
        from common.messages import LeaseGrant
        from common.wire import decode

        answer = decode(body)
        assert isinstance(answer, LeaseGrant), answer
        assert len(answer.leases) == count, answer.waiting_for
        actor.leases |= {lease.lease_id: lease for lease in answer.leases}
        return [lease.lease_id for lease in answer.leases]

    def trajectory(self, actor, lease_id):
        import numpy as np

        from common.wire import encode

        lease = actor.leases.pop(lease_id)
        version = lease.minimum_version
        if version not in self.versions:
            self.versions[version] = np.where(self.sampled, version, -1).astype("<i4").tobytes()
        words = {"trajectory_id": lease_id, "lease": lease, "actor": actor.name, "reward": float(lease.member % 2)}
        return encode(self.kind.model_construct(**words, **self.made, version_bytes=self.versions[version]))

    def acknowledged(self, body):
        from common.wire import decode

        answer = decode(body)
        assert answer.outcome == "ok", answer

    def heartbeat(self, actor):
        from common.messages import Heartbeat
        from common.wire import encode

        held = tuple(actor.leases)
        return encode(
            Heartbeat(policy_version=0, episodes=len(held), lease_ids=held, tokens_per_second=900.0, spooled=0)
        )


class Raw(Ours):
    """The same messages to a server that answers `ok` to each: leases are made up here."""

    def __init__(self, size):
        super().__init__(size)
        self.numbers = itertools.count()

    def granted(self, actor, _body, count):
        from common.messages import Lease, Sampling

        sampling = Sampling(temperature=1.0, max_turns=7, max_turn_tokens=90, max_context_tokens=640)
        ids = []
        for number in itertools.islice(self.numbers, count):
            group, member = divmod(number, 6)
            lease = Lease(
                lease_id=f"g{group:06d}.{member}.0",
                group_id=f"g{group:06d}",
                member=member,
                epoch=0,
                task_id="task_0",
                purpose="train",
                minimum_version=0,
                sampling=sampling,
                time_to_live=60.0,
            )
            actor.leases[lease.lease_id] = lease
            ids.append(lease.lease_id)
        return ids

    def acknowledged(self, body):
        assert body == b"ok", body


def all_answers(actors, bodies):
    """All are asked, then all are heard; an actor may be among them more than once."""
    numbers = [actor.ask(body) for actor, body in zip(actors, bodies, strict=True)]
    return [actor.answer(number) for actor, number in zip(actors, numbers, strict=True)]


def in_windows(each, window):
    each = list(each)
    return (each[at : at + window] for at in range(0, len(each), window))


def arrive(actors, talk, slots, window):
    """Everybody says Hello and takes its leases, one at a time in turn; the leases in the order of granting."""
    order = deque()
    for some in in_windows(actors, window):
        all_answers(some, [talk.hello(actor, slots) for actor in some])
    for _ in range(slots):
        for some in in_windows(actors, window):
            answers = all_answers(some, [talk.request(1)] * len(some))
            for actor, answer in zip(some, answers, strict=True):
                order += [(actor, lease_id) for lease_id in talk.granted(actor, answer, 1)]
    return order


def work(order, talk, count, window):
    """`count` trajectories of the oldest leases, a new lease for each, a heartbeat for each."""
    for _ in range(count // window):
        under_way = [order.popleft() for _ in range(window)]
        actors = [actor for actor, _ in under_way]
        for body in all_answers(actors, [talk.trajectory(actor, lease_id) for actor, lease_id in under_way]):
            talk.acknowledged(body)
        for actor, answer in zip(actors, all_answers(actors, [talk.request(1)] * window), strict=True):
            order += [(actor, granted) for granted in talk.granted(actor, answer, 1)]
        all_answers(actors, [talk.heartbeat(actor) for actor in actors])


def beat(actors, talk, seconds, interval, window):
    """Heartbeats alone, everybody's once in `interval`, evenly."""
    began, sent = time.perf_counter(), 0
    for some in itertools.cycle(list(in_windows(actors, window))):
        due = sent / len(actors) * interval - (time.perf_counter() - began)
        if due > 0:
            time.sleep(min(due, seconds))
        if time.perf_counter() - began > seconds:
            return
        all_answers(some, [talk.heartbeat(actor) for actor in some])
        sent += len(some)
