"""The ranking page: what its routes work with, and how they show what they found."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from fastapi import Request, Response
from fastapi.templating import Jinja2Templates
from jinja2 import StrictUndefined

from zj_ray.errors import DataError
from zj_ray.labelling.accounts import Account, Accounts
from zj_ray.labelling.desk import Desk
from zj_ray.labelling.security import csrf_token
from zj_ray.labelling.words import LANGUAGES, words
from zj_ray.rankings.aspects import HEADS
from zj_ray.rankings.store import RankingStore
from zj_ray.rankings.tables import Ranking, utc

LETTERS = "ABCDEFGHIJKLMNOP"  # what the answers are called, in the order of display
SCRIPT_WORDS = (
    *HEADS,
    *("unranked", "nth_rank", "moved", "tied", "saving", "offline", "still_offline", "refused"),
    *("rank_all", "right_missing", "as_overall", "changed"),
)


@dataclass(frozen=True)
class Page:
    """What the routes work with. priorities: the file that says how far the reward models disagree."""

    store: RankingStore
    desk: Desk
    accounts: Accounts
    priorities: Path

    def plan(self) -> None:
        self.desk.plan(read_priorities(self.priorities))

    def catch_up(self) -> bool:
        """Plan the items that came after the last plan, as `zj feedback collect` brings them; whether any did."""
        unplanned = self.desk.unplanned()
        if unplanned:
            self.plan()
        return unplanned

    def doctors_rankings(self, item_ids: Sequence[str] | None = None) -> dict[str, list[Ranking]]:
        """What people said of every item (or of `item_ids`), without simulated annotators and files."""
        rankings = self.store.all_rankings(item_ids)
        by_doctors = {item: [r for r in of_item if r.kind == "human"] for item, of_item in rankings.items()}
        return {item: of_item for item, of_item in by_doctors.items() if of_item}


def read_priorities(path: Path) -> dict[str, float]:
    """{item: how far the reward models disagree about it}; empty where nobody wrote the file."""
    if not path.exists():
        return {}
    try:
        return {str(item): float(value) for item, value in json.loads(path.read_text(encoding="utf-8")).items()}
    except (ValueError, TypeError, AttributeError) as fault:
        what = "this does not say how far the reward models disagree"
        raise DataError(what, where=str(path), remedy='write {"item id": 0.7, …}') from fault


def page_of(request: Request) -> Page:
    return request.app.state.page


def language_of(request: Request) -> str:
    """The language that the reader chose, or else Chinese."""
    return request.session.get("language", LANGUAGES[0])


def show(
    request: Request, template: str, account: Account | None = None, *, status: int = 200, **parts: Any
) -> Response:
    """A template in the reader's language. account: whose navigation is shown; parts: what this template needs."""
    language = language_of(request)
    parts |= {"w": SimpleNamespace(**words(language)), "lang": language, "account": account, "letters": LETTERS}
    parts |= {"other": next(each for each in LANGUAGES if each != language), "csrf": csrf_token(request)}
    return templates.TemplateResponse(request, template, parts, status_code=status)


def script_words(names: SimpleNamespace) -> str:
    """The words that the script says, as JSON."""
    return json.dumps({name: getattr(names, name) for name in SCRIPT_WORDS}, ensure_ascii=False)


def local(moment: datetime) -> str:
    """The time on the server's clock."""
    return f"{utc(moment).astimezone():%Y-%m-%d %H:%M}"


templates = Jinja2Templates(Path(__file__).parent / "templates")
templates.env.undefined = StrictUndefined
templates.env.filters |= {"script_words": script_words, "local": local}
