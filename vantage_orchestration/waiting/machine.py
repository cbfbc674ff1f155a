# SPDX-License-Identifier: Apache-2.0
"""Decides what to do next while waiting for transactions.

This is the only place that applies ``on_review``, both limits and the polling intervals. It sends
nothing and reads no clock: drivers report what they saw and when, and carry out its answers. Its
state is JSON, so a wait can move from a worker to a triggerer and back.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from vantage_orchestration.status import Status
from vantage_orchestration.text import MISFIT, counted, shortened
from vantage_orchestration.waiting.rules import WaitRules

if TYPE_CHECKING:
    from vantage_orchestration.models import Transaction
    from vantage_orchestration.processing.manifest import UnfinishedEntry

#: Least time in seconds for the service after a review: what follows, such as an export, is short.
_AFTER_REVIEW: Final = 600.0
#: A review that returns within these seconds is the same one: the list of transactions may lag
#: behind.
_SAME_REVIEW: Final = 600.0
#: Seconds after a limit, or after the wait was resumed, within which the last poll must succeed.
LAST_LOOK: Final = 60.0
#: Transactions up to which a stored state has the names of files, and their characters.
_MOST_NAMED, _LONGEST_NAMES = 1000, 80
#: Transactions that a line of the log names, and lines about one poll; more are counted.
_MOST_TOLD: Final = 20


@dataclass(frozen=True, slots=True)
class Observation:
    """State of a transaction at one moment (contract, section 4).

    Attributes:
        transaction_id: Transaction, spelled as given by the caller.
        status: Its status.
        in_review: Whether a person must review it. Manual review is not a status.
        files: Names of its files, as written by :func:`vantage_orchestration.text.named`; empty if
            unknown.
    """

    transaction_id: str
    status: Status
    in_review: bool = False
    files: str = field(default="", compare=False)

    @property
    def ended(self) -> bool:
        """Whether the transaction is in a final state."""
        return self.status.is_terminal

    def __str__(self) -> str:
        # The review link is a credential and never leaves the client.
        waits = ", waiting for manual review" if self.in_review else ""
        files = f" ({self.files})" if self.files else ""
        return f"Transaction {self.transaction_id}{files}: {self.status}{waits}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of a wait.

    Attributes:
        statuses: Transaction id to status.
        in_review: Ids that wait for a person.
        timed_out: Which limit was reached, as a sentence without a full stop; None if none was.
        processed: Full data of processed transactions, if this process saw them end. Their results
            can be fetched without another request.
        details: For each id without results: which files were sent and why there are no results, as
            far as known.
        files: Names of the files by transaction id, as far as known, for the log.
    """

    statuses: Mapping[str, Status]
    in_review: tuple[str, ...] = ()
    timed_out: str | None = None
    processed: Mapping[str, Transaction] = field(default_factory=dict, repr=False, compare=False)
    details: Mapping[str, UnfinishedEntry] = field(default_factory=dict, repr=False, compare=False)
    files: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)

    @property
    def open(self) -> list[str]:
        """Ids that have not ended."""
        return [each for each, status in self.statuses.items() if not status.is_terminal]

    def with_status(self, *statuses: Status) -> list[str]:
        """Return the ids that have one of these statuses."""
        return [each for each, status in self.statuses.items() if status in statuses]


@dataclass(frozen=True, slots=True)
class LookAgain:
    """Poll the open transactions again.

    Attributes:
        seconds: In how many seconds.
        at_most: Seconds after which the wait is over even if no poll is possible. Ask again then.
    """

    seconds: float
    at_most: float = field(default=math.inf, compare=False)


@dataclass(frozen=True, slots=True)
class PeopleNeeded:
    """These transactions wait for a person. Notify people, then call :meth:`Wait.notified`.

    Attributes:
        transaction_ids: Transactions whose review has begun.
        until: When the first review times out, in seconds since the epoch; None for never.
    """

    transaction_ids: tuple[str, ...]
    until: float | None = None


#: What to do next. With an outcome the wait has ended.
Answer = LookAgain | PeopleNeeded | Outcome


@dataclass(slots=True)
class _Review:
    """A review and its clock.

    Attributes:
        since: When it began.
        notified: Whether people were notified.
        over: When it was first seen to be over; None while it lasts.
    """

    since: float
    notified: bool = False
    over: float | None = None


class Wait:
    """A wait for some transactions. All times are seconds since the epoch.

    Args:
        ids: Transactions.
        rules: Limits and pace.
        now: When the wait begins or is resumed.
        files: Names of the files by transaction id, as far as known, for the log.
        skill_id: Skill of all transactions, if known: polling then takes fewer requests.
        place: Server and tenant id of all transactions, if known.
        state: Result of :meth:`to_json`, to resume a wait with other rules or ids.

    Attributes:
        files: The same, with the names that polling has shown.
    """

    def __init__(
        self,
        ids: Iterable[str],
        rules: WaitRules,
        now: float,
        *,
        files: Mapping[str, str] | None = None,
        skill_id: str | None = None,
        place: tuple[str, str] | None = None,
        state: Mapping[str, Any] | None = None,
    ) -> None:
        self.rules = rules
        self.skill_id = skill_id
        self.place = place
        self.files = {**(state or {}).get("files", {}), **(files or {})}
        old = state or {"statuses": {}, "reviews": {}, "left": None, "timed_out": None}
        self._statuses = {each: Status(old["statuses"].get(each, Status.UNKNOWN)) for each in ids}
        self._reviews = {name: _Review(**each) for name, each in old["reviews"].items()}
        begin = None if rules.timeout is None else now + rules.timeout
        self._deadline: float | None = old["deadline"] if state is not None else begin
        #: Remaining time of the service while its clock is stopped.
        self._left: float | None = old["left"]
        self._timed_out: str | None = old["timed_out"]
        # Not part of the state: a resumed wait polls soon, and at least once.
        self._taken_up = now
        self._looked = -math.inf
        self._looks = 0
        self._progress = ""

    # -- state

    def to_json(self) -> dict[str, Any]:
        """Return the state: rules, ids, statuses and times. It contains no secret."""
        return {
            "rules": asdict(self.rules),
            "statuses": {name: status.value for name, status in self._statuses.items()},
            "reviews": {name: asdict(review) for name, review in self._reviews.items()},
            "deadline": self._deadline,
            "left": self._left,
            "timed_out": self._timed_out,
            "files": self._short_files(),
            "skill_id": self.skill_id,
            "place": None if self.place is None else [*self.place],
        }

    def _short_files(self) -> dict[str, str]:
        """Return names for a state that is stored: of not too many files, and not too long."""
        known = self.files.items() if len(self._statuses) <= _MOST_NAMED else ()
        return {name: text[:_LONGEST_NAMES] for name, text in known if name in self._statuses}

    @classmethod
    def from_json(cls, state: Mapping[str, Any], now: float) -> Wait:
        """Resume a wait from the result of :meth:`to_json`."""
        try:
            rules, skill_id, place = WaitRules(**state["rules"]), state["skill_id"], state["place"]
            place = None if place is None else (str(place[0]), str(place[1]))
            return cls(state["statuses"], rules, now, skill_id=skill_id, place=place, state=state)
        except MISFIT as error:
            raise ValueError(f"This is not the state of a wait: {error!r}") from None

    @property
    def open(self) -> list[str]:
        """Transactions that have not ended, as far as known."""
        return [name for name, status in self._statuses.items() if not status.is_terminal]

    def lines(self, changes: Iterable[Observation]) -> Iterator[str]:
        """Yield log lines about the changes of a poll, and how many have ended by now.

        Of many changes the rest is only counted, since orchestrators store each line. Those that
        somebody may have to look into come first.
        """
        urgent = sorted(changes, key=lambda each: not (each.status.is_failure or each.in_review))
        for each in urgent[:_MOST_TOLD]:
            line = str(replace(each, files=self.files.get(each.transaction_id, each.files)))
            yield f"{line}; {self.progress}" if len(self._statuses) > 1 else line
        if (more := len(urgent) - _MOST_TOLD) > 0:
            yield f"... and {counted(more, 'more change', 'more changes')}; {self.progress}"

    @property
    def progress(self) -> str:
        """How many transactions have ended, for the log."""
        if not self._progress:  # It is the same for all changes of a poll.
            total, waiting = len(self._statuses), len(self.in_review)
            what = counted(total, "transaction has", "transactions have")
            self._progress = f"{total - len(self.open)} of {what} ended" + (
                f", {waiting} in review" if waiting else ""
            )
        return self._progress

    def words_of_people(self, needed: PeopleNeeded) -> str:
        """Return a line for the log about transactions that wait for a person."""
        ids = needed.transaction_ids
        files = self.files
        shown = [f"{each} ({files[each]})" if each in files else each for each in ids]
        what = counted(len(ids), "transaction waits", "transactions wait")
        return f"{what} for a manual review: {shortened(shown, most=_MOST_TOLD)}"

    @property
    def transaction_ids(self) -> list[str]:
        """All transactions, ended or not."""
        return list(self._statuses)

    @property
    def review_deadlines(self) -> dict[str, float]:
        """When waiting for each review ends, in seconds since the epoch; empty without reviews."""
        limit = self.rules.review_timeout
        if limit is None or self.rules.on_review != "wait":
            return {}
        return {each: self._reviews[each].since + limit for each in self.in_review}

    @property
    def in_review(self) -> list[str]:
        """Transactions that wait for a person now."""
        reviews = self._reviews
        return [name for name in self._statuses if name in reviews and reviews[name].over is None]

    # -- what drivers call

    def note(self, seen: Iterable[Observation], now: float) -> list[Observation]:
        """Record the result of a poll, even if it is empty; return what has changed, including the
        first state of each transaction."""
        found = list(seen)
        changes = [each for each in found if self._note(each, now)]
        self._progress = ""
        self._run_or_stop(now)
        self._looked = now
        if changes:
            self._looks = 0
        elif found:
            self._looks += 1
        return changes

    def next(self, now: float, *, not_before: float = 0.0) -> Answer:
        """Return what to do next. For ``not_before`` seconds polling is useless because the service
        has problems."""
        if new := [each for each in self.in_review if not self._reviews[each].notified]:
            limits = self.review_deadlines
            return PeopleNeeded(tuple(new), min(limits[each] for each in new) if limits else None)
        if self._is_over(now):
            states, reviews = dict(self._statuses), tuple(self.in_review)
            return Outcome(states, reviews, self._timed_out, files=self.files)
        pause = max(not_before, self.rules.pause(self._looks, in_review=self._only_people()))
        left = self._limit() - now
        return LookAgain(max(0.0, min(pause, left)), self._last_look() - now)

    def notified(self, needed: PeopleNeeded) -> None:
        """Record that people were notified of these reviews, so that it happens once."""
        for each in needed.transaction_ids:
            self._reviews[each].notified = True

    # -- internals

    def _note(self, seen: Observation, now: float) -> bool:
        """Record the state of one transaction; return whether it changed."""
        name = seen.transaction_id
        if seen.files:
            self.files.setdefault(name, seen.files)
        review = self._reviews.get(name)
        before = self._statuses[name], review is not None and review.over is None
        self._statuses[name] = seen.status
        if seen.ended:
            self._reviews.pop(name, None)
        elif seen.in_review:
            if review is None or (review.over is not None and now - review.over > _SAME_REVIEW):
                self._reviews[name] = _Review(since=now)
            else:
                review.over = None
        elif review is not None and review.over is None:
            review.over = now
        return before != (seen.status, seen.in_review and not seen.ended)

    def _only_people(self) -> bool:
        """Return whether all open transactions wait for people."""
        return bool(self.open) and len(self.in_review) == len(self.open)

    def _run_or_stop(self, now: float) -> None:
        """Stop the service's clock while all open transactions wait for people."""
        if self._only_people():
            if self._deadline is not None:
                # The review may have begun long before it was seen.
                self._left, self._deadline = max(self._deadline - now, _AFTER_REVIEW), None
        elif self._left is not None:
            self._deadline, self._left = now + self._left, None

    def _limit(self) -> float:
        """Return when the first limit is reached."""
        service = math.inf if self._deadline is None else self._deadline
        return min([service, *self.review_deadlines.values()])

    def _last_look(self) -> float:
        """Return until when the last poll must succeed."""
        return max(self._limit(), self._taken_up) + LAST_LOOK

    def _is_over(self, now: float) -> bool:
        rule = self.rules.on_review
        if (
            not self.open
            or (rule == "fail" and self.in_review)
            or (rule == "return" and self._only_people())
        ):
            return True
        limit = self._limit()
        # A poll at the limit or later decides. There may have been none for hours, because the
        # triggerer or the service was down.
        if self._looked >= limit or now >= self._last_look():
            self._timed_out = self._timed_out or self._reason(now)
        return self._timed_out is not None

    def _reason(self, now: float) -> str:
        """Return which limit was reached, and by how many transactions."""
        rules = self.rules
        if self._deadline is not None and self._deadline <= now:
            waiting = len(self.in_review)
            late = counted(len(self.open) - waiting, "transaction has", "transactions have")
            others = counted(waiting, "waits", "wait")
            return f"{late} not ended within {rules.timeout:.0f} s (timeout)" + (
                f", and {others} for manual review" if waiting else ""
            )
        late_reviews = sum(limit <= now for limit in self.review_deadlines.values())
        return (
            f"{counted(late_reviews, 'transaction has', 'transactions have')} waited for manual"
            f" review for {rules.review_timeout:.0f} s (review_timeout)"
        )
