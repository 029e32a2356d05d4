"""What can be asked in the world: one file per app, and one for tasks that span several.

`TRAIN` is learned from, and other instances of it are tested on; `UNSEEN` is only ever tested on, but needs no app that
train lacks; `CHALLENGE` needs one.
"""

from __future__ import annotations

from actor.world.scenarios import (
    amazon,
    file_system,
    gmail,
    phone,
    several,
    simple_note,
    splitwise,
    spotify,
    supervisor,
    todoist,
    unseen,
    venmo,
)
from actor.world.scenarios.form import Scenario

TRAIN: tuple[Scenario, ...] = (
    supervisor.HOME_CITY,
    supervisor.CARD_YEAR,
    spotify.LONGEST_SONG,
    spotify.LIKED_COUNT,
    spotify.LIKE_SONG,
    simple_note.NOTE_TEXT,
    simple_note.PIN_NOTE,
    simple_note.NEW_NOTE,
    phone.SEND_TEXT,
    phone.LAST_TEXT,
    phone.ALARM_OFF,
    venmo.PAY_FRIEND,
    venmo.ASK_FRIEND,
    venmo.TOTAL_SENT,
    file_system.FILE_TEXT,
    file_system.FILE_COUNT,
    file_system.MOVE_FILE,
    todoist.TASK_DONE,
    todoist.OPEN_TASKS,
    todoist.ADD_TASK,
    todoist.DUE_FIRST,
    splitwise.ADD_EXPENSE,
    splitwise.PAID_IN_GROUP,
    splitwise.SETTLE_UP,
    several.NOTE_TASK,
    several.SONG_NOTE,
    several.PAY_FILE,
    several.TEXT_TASK,
)
UNSEEN: tuple[Scenario, ...] = (
    unseen.LIKED_LONGEST,
    unseen.LIBRARY_COUNT,
    unseen.ALARM_TIME,
    unseen.DUE_LAST,
    unseen.PAID_TIMES,
    unseen.FILE_NOTE,
)
CHALLENGE: tuple[Scenario, ...] = (
    amazon.WISH_DEAREST,
    amazon.ORDER_SPENT,
    amazon.ADD_TO_CART,
    amazon.WISH_TO_CART,
    amazon.ASK_NOTE,
    gmail.LAST_MAIL,
    gmail.STAR_MAIL,
    gmail.LABEL_COUNT,
    gmail.SEND_DRAFT,
    gmail.MAIL_NOTE,
)
