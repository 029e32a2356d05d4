"""The list of task ids of a run, as both sides know it."""

import hashlib

from common import task_ids
from common.messages import TASK_IDS_AT_ONCE, Welcome
from common.task_ids import TaskList, digest_of
from common.wire import decode, encode


def test_the_digest_is_of_the_sorted_ids_each_once():
    assert TaskList(["b_1", "a_1", "b_1"]).task_ids == ("a_1", "b_1")
    assert TaskList(["b_1", "a_1"]).digest == TaskList(["a_1", "b_1"]).digest == digest_of(["a_1", "b_1"])
    assert TaskList(["a_1"]).digest != TaskList(["a_2"]).digest
    assert digest_of(["a_1", "b_1"]) == hashlib.sha256(b"a_1\nb_1").hexdigest()


def test_pages_hold_the_whole_list_in_order(monkeypatch):
    monkeypatch.setattr(task_ids, "TASK_IDS_AT_ONCE", 2)
    listed = TaskList([f"t_{n}" for n in range(5)])
    pages = [listed.page(begin) for begin in (0, 2, 4)]
    assert [page.task_ids for page in pages] == [("t_0", "t_1"), ("t_2", "t_3"), ("t_4",)]
    assert {(page.count, page.tasks_digest) for page in pages} == {(5, listed.digest)}


def test_the_largest_page_of_the_longest_ids_crosses_the_link():
    listed = TaskList([f"{n:0200d}" for n in range(TASK_IDS_AT_ONCE + 1)])
    page = decode(encode(listed.page(0)))
    assert len(page.task_ids) == TASK_IDS_AT_ONCE
    assert page == listed.page(0)


def test_a_welcome_without_a_digest_tells_none():
    told = Welcome(run_id="r", policy_version=0, manifest_digest="", heartbeat_seconds=1.0, credit_bytes=1)
    assert told.tasks_digest == ""
