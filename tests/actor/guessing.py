"""A world other than AppWorld, whole in this file: a number is to be guessed. Cells are plain lines like `guess 12`.

`--world.provider guessing:Guessing`; its tasks are the lines `ID NUMBER` of tasks.txt in `--world.root`.
"""

from dataclasses import dataclass

from actor.world_protocol import UnusableTask, WorldFailure
from common.errors import UsageError

MOST_GUESSES = 12


@dataclass(frozen=True)
class Puzzle:
    task_id: str
    number: int
    first_name: str = "Ada"
    last_name: str = "Moss"
    email: str = "ada@mail.com"
    phone_number: str = "1"
    datetime: str = "2023-05-18T12:00:00"

    @property
    def instruction(self):
        return "Guess my number between 0 and 99: `guess N`."


@dataclass(frozen=True)
class Answer:
    text: str
    completed: bool = False
    killed: str | None = None
    goes_on: bool = False


@dataclass(frozen=True)
class Score:
    reward: float
    success: bool
    failures: tuple[str, ...] = ()
    tampered: bool = False


class Guessing:
    waiting_for = ""  # it has no process that could die

    def __init__(self, config):
        file = config.root / "tasks.txt"
        if not file.is_file():
            raise UsageError(f"{file} is missing: write a line `ID NUMBER` for each task")
        self.tasks = dict(line.split() for line in file.read_text().splitlines())
        self.open_games = 0
        self.started = False

    def check(self, task_ids):
        missing = [task_id for task_id in task_ids if task_id not in self.tasks]
        if missing:
            raise UsageError(f"there is no puzzle {missing[0]} ({len(missing)} of {len(task_ids)} are missing)")

    async def start(self):
        self.started = True

    async def open(self, task_id):
        if task_id not in self.tasks:
            raise UnusableTask(f"there is no puzzle {task_id}")
        self.open_games += 1
        return Game(self, Puzzle(task_id, int(self.tasks[task_id])))

    async def close(self):
        self.started = False


class Game:
    def __init__(self, owner, task):
        self.owner, self.task, self.guesses, self.closed = owner, task, [], False

    async def execute(self, code):
        if code == "break":
            raise WorldFailure("the game broke")
        word, _, number = code.partition(" ")
        if word != "guess" or not number.isdigit():
            return Answer(f"cannot {code!r}: say `guess N`")
        self.guesses.append(int(number))
        if len(self.guesses) > MOST_GUESSES:
            return Answer("too many guesses", killed="guesses")
        if self.guesses[-1] == self.task.number:
            return Answer("right", completed=True)
        return Answer("higher" if self.guesses[-1] < self.task.number else "lower")

    async def grade(self):
        if self.guesses and self.guesses[-1] == self.task.number:
            return Score(1.0, success=True)
        nearest = min((abs(guess - self.task.number) for guess in self.guesses), default=100)
        return Score(1.0 - nearest / 100, success=False, failures=(f"{nearest} away",))

    async def close(self):
        if not self.closed:
            self.closed = True
            self.owner.open_games -= 1
