"""The ranking page over real HTTP: who may do what, hostile input, and a log that holds no word of anybody."""

from __future__ import annotations

import itertools
import json
import shutil
import socket
import sqlite3
import ssl
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import Result
from starlette.testclient import TestClient
from typer.testing import CliRunner

from tests.helpers.labelling import ANSWERS, Annotator, accounts, field_of, items, make_run, server
from zj_ray.cli.main import app
from zj_ray.config.schema import LabelConfig
from zj_ray.data.messages import Message
from zj_ray.labelling.app import create_app
from zj_ray.labelling.desk import display_order
from zj_ray.labelling.page import Page
from zj_ray.labelling.security import limiter
from zj_ray.labelling.server import open_page
from zj_ray.rankings.store import RankingStore
from zj_ray.rankings.tables import Answer, Item, Ranking

SCRIPT = "<script>alert('答案')</script><img src=x onerror=alert(1)>"
SQL = "'); DROP TABLE ranking; -- ' OR '1'='1"
CONFIG = LabelConfig(overlap=0.0, gold=0.0)


@pytest.fixture
def page(tmp_path: Path) -> Page:
    page = open_page(tmp_path, CONFIG)
    context = (Message("user", f"医生您好{SCRIPT}"),)
    answers = (Answer(SCRIPT), Answer('"><b onclick=x>'), Answer("好"))
    page.store.add_items([Item("hostile", "h", context, None, answers)])
    page.desk.plan({})
    return page


class Client(TestClient):
    def enter(self, token: str) -> None:
        self.csrf = field_of(self.get("/login").text, 'name="csrf" value')
        first = self.post("/login", data={"token": token, "csrf": self.csrf})
        assert first.status_code == 200
        self.csrf = field_of(first.text, 'name="csrf" value')

    def say(self, path: str, **body: object) -> Any:
        return self.post(path, json=body, headers={"X-CSRF": self.csrf})


@pytest.fixture
def client(page: Page) -> Iterator[Client]:
    limiter.reset()
    with Client(create_app(page, secret="for tests")) as client:
        yield client


def rank_rest(client: Client) -> list[str]:
    """Rank whatever is left, and return the items in order."""
    done = []
    while 'data-item="' in (text := client.get("/").text):
        done.append(field_of(text, "data-item"))
        assert client.say("/api/rank", item=done[-1], key="k", overall=[1, 2, 3, 4]).status_code == 200
    return done


# --- who may do what -------------------------------------------------------------------------------------------------


ALLOWED = dict.fromkeys(("/admin", "/gold", "/agreement", "/export"), {"admin"}) | {
    "/adjudicate": {"adjudicator"},
    "/history": {"annotator", "adjudicator"},
    "/compare?item=hostile": set(),
}


@pytest.mark.parametrize(("path", "allowed"), ALLOWED.items())
def test_a_role_sees_its_own_pages_only(page: Page, client: Client, path: str, allowed: set[str]) -> None:
    assert client.get(path).url.path == "/login"
    for role in ("annotator", "adjudicator", "admin"):
        client.cookies.clear()
        client.enter(page.accounts.give(f"dr-{role}", role))
        assert client.get(path).status_code == (200 if role in allowed else 403), role


def test_an_admin_does_not_rank_and_an_annotator_makes_no_accounts(page: Page, client: Client) -> None:
    client.enter(page.accounts.give("root", "admin"))
    assert client.say("/api/rank", item="hostile", key="k", overall=[1, 2, 3]).status_code == 403
    client.cookies.clear()
    client.enter(page.accounts.give("li", "annotator"))
    assert client.post("/admin/accounts", data={"name": "me", "role": "admin", "csrf": client.csrf}).status_code == 403
    assert client.post("/admin/gold", data={"item": "hostile", "csrf": client.csrf}).status_code == 403
    assert [account.name for account in page.accounts.all()] == ["li", "root"]


def test_a_new_token_or_a_closed_account_ends_the_session_and_the_old_token(page: Page, client: Client) -> None:
    token = page.accounts.give("li", "annotator")
    client.enter(token)
    assert client.get("/").status_code == 200
    page.accounts.give("li", "closed")
    assert client.get("/").url.path == "/login" and page.accounts.by_token(token) is None
    assert client.say("/api/rank", item="hostile", key="k", overall=[1, 2, 3]).status_code == 401


def test_the_store_holds_no_token(page: Page, tmp_path: Path) -> None:
    token = page.accounts.give("li", "annotator")
    page.store.close()
    assert all(token.encode() not in file.read_bytes() for file in tmp_path.iterdir())


def test_a_session_that_was_signed_elsewhere_is_none(page: Page, client: Client) -> None:
    page.accounts.give("root", "admin")
    with Client(create_app(page, secret="another secret")) as other:
        other.enter(page.accounts.give("root", "admin"))
        client.cookies.update(other.cookies)
    assert client.get("/admin").url.path == "/login"


CHANGES = [
    ("/api/rank", "annotator", {"item": "hostile", "key": "k", "overall": [1, 2, 3]}),
    ("/api/skip", "annotator", {"item": "hostile", "reason": "skip_field"}),
    ("/api/undo", "annotator", {"item": "hostile"}),
    ("/admin/accounts", "admin", {"name": "x", "role": "admin"}),
    ("/admin/gold", "admin", {"item": "hostile"}),
    ("/logout", "admin", {}),
    ("/login", "admin", {"token": "t"}),
]


@pytest.mark.parametrize(("path", "role", "body"), CHANGES)
@pytest.mark.parametrize("guess", [None, "", "guess"])
def test_what_changes_anything_needs_the_sessions_own_csrf_token(
    page: Page, client: Client, path: str, role: str, body: dict[str, Any], guess: str | None
) -> None:
    client.enter(page.accounts.give("zhao", role))
    client.csrf = guess or ""
    forged = {} if guess is None else {"csrf": guess}
    answer = client.say(path, **body) if path.startswith("/api") else client.post(path, data=body | forged)
    assert answer.status_code == 403
    assert client.get("/").url.path != "/login"  # still signed in
    assert page.store.all_rankings() == {} and page.store.gold() == {}
    assert [account.name for account in page.accounts.all()] == ["zhao"]


def test_guessing_tokens_and_flooding_are_slowed_down(page: Page, client: Client) -> None:
    csrf = field_of(client.get("/login").text, 'name="csrf" value')
    codes = [client.post("/login", data={"token": f"guess {n}", "csrf": csrf}).status_code for n in range(62)]
    assert codes == [401] * 60 + [429] * 2
    limiter.reset()
    client.enter(page.accounts.give("li", "annotator"))
    codes = [client.say("/api/skip", item="nothing", reason="skip_field").status_code for _ in range(302)]
    assert codes[299:] == [403, 429, 429]


# --- hostile input ---------------------------------------------------------------------------------------------------


def test_scripts_and_sql_are_words_like_others(page: Page, client: Client) -> None:
    client.enter(page.accounts.give("li", "annotator"))
    shown = client.get("/")
    assert "<script>alert" not in shown.text and "<img" not in shown.text and "&lt;script&gt;alert" in shown.text
    texts = {"right_answer": SCRIPT, "comment": SQL + SCRIPT}
    body = {"item": "hostile", "key": "k", "overall": [1, 2, 3], "all_wrong": True, **texts}
    assert client.say("/api/rank", **body).status_code == 200
    history = client.get("/history").text
    assert "<script>alert" not in history and "DROP TABLE ranking" in history
    [ranking] = page.store.rankings("hostile")
    assert (ranking.right_answer, ranking.comment) == (SCRIPT, SQL + SCRIPT)


def test_no_page_may_run_or_load_anything_from_elsewhere(page: Page, client: Client) -> None:
    client.enter(page.accounts.give("li", "annotator"))
    for path in ("/", "/history", "/login", "/static/rank.js", "/nowhere"):
        answer = client.get(path)
        assert answer.headers["content-security-policy"].startswith("default-src 'self'; frame-ancestors 'none'")
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert " style=" not in answer.text and "onclick=" not in answer.text.replace("&lt;b onclick", "")
    assert client.get("/").headers["cache-control"] == "no-store"
    client.cookies.clear()
    cookie = client.get("/login").headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=strict" in cookie


def test_somebody_elses_item_is_refused(page: Page, client: Client) -> None:
    page.desk.next("wang")
    client.enter(page.accounts.give("li", "annotator"))
    assert client.say("/api/rank", item="hostile", key="k", overall=[1, 2, 3]).status_code == 403
    assert client.say("/api/skip", item="hostile", reason="skip_field").status_code == 403
    assert client.say("/api/undo", item="hostile").status_code == 403
    assert page.store.all_rankings() == {} and client.get("/compare?item=hostile").status_code == 403


HOSTILE = [
    {"item": "hostile", "key": "k", "overall": [1, 2]},
    {"item": "hostile", "key": "k", "overall": [0, 1, 2]},
    {"item": "hostile", "key": "k", "overall": ["x", 1, 2]},
    {"item": "hostile", "key": "k", "overall": {"0": 1}},
    {"item": "../../etc/passwd", "key": "k", "overall": [1, 2, 3]},
    {"item": SQL, "key": "k", "overall": [1, 2, 3]},
    {"item": "x" * 129, "key": "k", "overall": [1, 2, 3]},
    {"item": "hostile", "key": "", "overall": [1, 2, 3]},
    {"item": "hostile", "key": "k", "overall": [1, 2, 3], "aspects": {"origin": [1, 2, 3]}},
    {"item": "hostile", "key": "k", "overall": [1, 2, 3], "aspects": {"safety": [1, 2]}},
    {"item": "hostile", "key": "k", "overall": [1, 2, 3], "all_wrong": True},
    {"item": "hostile", "key": "k", "overall": [1, 2, 3], "comment": "长" * 5001},
    {"item": "hostile\x00", "key": "k", "overall": [1, 2, 3]},
]


@pytest.mark.parametrize("body", HOSTILE)
def test_what_does_not_fit_is_refused_and_nothing_is_stored(
    page: Page, client: Client, body: dict[str, object]
) -> None:
    client.enter(page.accounts.give("li", "annotator"))
    client.get("/")
    answer = client.say("/api/rank", **body)
    assert answer.status_code in (403, 422) and set(answer.json()) == {"error"}
    assert page.store.all_rankings() == {}


OUTSIDE = ("/static/../app.py", "/static/%2e%2e/words.py", "/static/..%2f..%2fserver.py")


@pytest.mark.parametrize("path", [*OUTSIDE, "/language/xx", "/docs", "/openapi.json"])
def test_paths_lead_nowhere_else(client: Client, path: str) -> None:
    assert client.get(path).status_code == 404


def test_a_change_of_language_leads_to_no_other_site(client: Client) -> None:
    answer = client.get("/language/en", params={"page": "//evil.example"}, follow_redirects=False)
    assert answer.headers["location"] == "/"


def test_a_body_that_is_too_large_is_not_read(client: Client) -> None:
    assert client.post("/api/rank", content=b"x" * 300_000).status_code == 413
    assert client.post("/api/rank", content=iter([b"x"] * 10)).status_code == 413  # of unknown length


# --- what is shown and stored ----------------------------------------------------------------------------------------


def test_the_page_gives_no_hint_of_where_an_answer_came_from(tmp_path: Path) -> None:
    page = open_page(tmp_path, CONFIG)
    page.store.add_items(items(1))
    page.desk.plan({})
    with Client(create_app(page, secret="s")) as client:
        client.enter(page.accounts.give("li", "annotator"))
        text = client.get("/").text
    assert "sft" not in text and "temperature" not in text
    at = [text.index(ANSWERS[position]) for position in display_order("item-00000", "li", 4)]
    assert at == sorted(at) and display_order("item-00000", "li", 4) != (0, 1, 2, 3)


def test_each_of_the_24_orders_is_stored_as_it_was_seen(tmp_path: Path) -> None:
    """The original tool stored the inverse permutation, which is wrong for 14 of the 24 orders of four answers."""
    page = open_page(tmp_path, CONFIG)
    page.store.add_items(items(24))
    page.desk.plan({})
    with Client(create_app(page, secret="s")) as client:
        client.enter(page.accounts.give("li", "annotator"))
        for best_first in itertools.permutations(ANSWERS):
            text = client.get("/").text
            item = field_of(text, "data-item")
            cards = [part.split("<p>")[1].split("</p>")[0] for part in text.split("<article")[1:]]
            overall = [best_first.index(card) + 1 for card in cards]
            assert client.say("/api/rank", item=item, key="k", overall=overall).status_code == 200
            [ranking] = page.store.rankings(item)
            assert ranking.overall == tuple(best_first.index(answer) + 1 for answer in ANSWERS)
            assert set((ranking.aspects or {}).values()) == {ranking.overall}


def test_gaps_between_ranks_are_closed_and_aspects_that_differ_are_kept(page: Page, client: Client) -> None:
    client.enter(page.accounts.give("li", "annotator"))
    client.get("/")
    client.say("/api/rank", item="hostile", key="k", overall=[2, 3, 3], aspects={"fluency": [1, 1, 1]})
    [ranking] = page.store.rankings("hostile")
    shown = display_order("hostile", "li", 3)
    assert [ranking.overall[position] for position in shown] == [1, 2, 2]
    assert ranking.aspects == {"safety": ranking.overall, "professionalism": ranking.overall, "fluency": (1, 1, 1)}


def test_an_admin_makes_accounts_and_gold_and_exports(page: Page, client: Client) -> None:
    client.enter(page.accounts.give("li", "annotator"))
    client.get("/")
    client.say("/api/rank", item="hostile", key="k", overall=[1, 2, 2], comment="好")
    client.cookies.clear()
    client.enter(page.accounts.give("root", "admin"))
    overview = client.post("/admin/accounts", data={"name": "王医生", "role": "annotator", "csrf": client.csrf}).text
    account = page.accounts.by_token(overview.split('id="token">')[1].split("<")[0])
    assert account is not None and account.name == "王医生" and 'id="token"' not in client.get("/admin").text
    shown = client.get("/gold").text
    assert 'value="hostile"' in shown and "<td>好</td>" in shown and "<img" not in shown and "<b onclick" not in shown
    after = client.post("/admin/gold", data={"item": "hostile", "csrf": client.csrf}).text
    assert "现有 1 道标准题" in after and 'value="hostile"' not in after  # it is one already
    assert page.store.gold() == {"hostile": page.store.rankings("hostile")[0].overall}
    assert client.post("/admin/gold", data={"item": "hostile", "csrf": client.csrf}).status_code == 422
    [row] = [json.loads(line) for line in client.get("/export").text.splitlines()]
    assert row["id"] == "hostile" and row["annotators"][0]["name"] == "li"
    assert client.get("/agreement").status_code == 200


def test_items_that_come_into_the_store_reach_an_open_page(page: Page, client: Client, tmp_path: Path) -> None:
    client.enter(page.accounts.give("li", "annotator"))
    assert 'data-item="hostile"' in client.get("/").text
    client.say("/api/rank", item="hostile", key="k", overall=[1, 2, 3])
    assert "目前没有需要您排序的内容" in client.get("/").text
    RankingStore(tmp_path / "rankings.sqlite").add_items(items(2))  # as another process does
    assert 'data-item="item-0000' in client.get("/").text
    assert len(rank_rest(client)) == 2 and "目前没有需要您排序的内容" in client.get("/").text


def test_only_what_doctors_said_becomes_gold(page: Page, client: Client) -> None:
    page.store.add_rankings([Ranking("hostile", "sim-1", "simulated", (3, 2, 1))])
    client.enter(page.accounts.give("root", "admin"))
    assert "还没有医生排过的题目可选" in client.get("/gold").text
    assert client.post("/admin/gold", data={"item": "hostile", "csrf": client.csrf}).status_code == 422
    assert page.store.gold() == {}


# --- the log and the server ------------------------------------------------------------------------------------------


def test_no_word_of_a_patient_or_a_doctor_is_logged_even_where_the_server_fails(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", 3, CONFIG)
    tokens = accounts(run, CONFIG, li="annotator")
    with server(run) as (url, process):
        li = Annotator(url, tokens["li"])
        task = li.open()
        assert task is not None
        assert li.rank(task, [1, 2, 3, 4], comment="王秀英的病历").status_code == 200
        li.post("/api/skip", task["csrf"], item="王秀英", reason="王秀英")
        li.http.get("/compare", params={"item": "王秀英"})
        li.http.get("/王秀英")
        with sqlite3.connect(run / "feedback" / "rankings.sqlite") as connection:
            connection.execute("DROP TABLE ticket")
        assert li.rank(task | {"key": "2"}, [1, 2, 3, 4], comment="王秀英的病历").status_code == 500
        process.terminate()
        assert process.stdout is not None
        log = process.stdout.read() + (run / "feedback" / "label.log").read_text()
    assert "POST /api/rank 500" in log and "OperationalError in " in log and "(none) 404" in log
    for word in ("王秀英", "%E7%8E%8B", "头痛", "止痛药", tokens["li"], "item-0000"):
        assert word not in log, word


def test_the_secret_that_signs_sessions_is_the_owners_alone_and_outlives_a_restart(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", 1, CONFIG)
    with server(run) as (_, process):
        assert process.poll() is None
    secret = run / "feedback" / "label.secret"
    first = secret.read_text()
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600 and len(first) == 64
    with server(run) as (url, _):
        assert url.startswith("http://127.0.0.1:") and secret.read_text() == first


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[str, str]:
    """A certificate for 127.0.0.1 that signs itself, and its key."""
    certificate, key = str(tmp_path / "cert.pem"), str(tmp_path / "key.pem")
    subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += [*subject, "-out", certificate, "-keyout", key]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return certificate, key


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl here to make a certificate")
def test_over_tls_a_doctor_ranks_and_the_cookie_never_leaves_https(
    tmp_path: Path, certificate: tuple[str, str]
) -> None:
    run = make_run(tmp_path / "run", 1, CONFIG)
    tokens = accounts(run, CONFIG, li="annotator")
    with server(run, "--tls", *certificate) as (url, _):
        assert url.startswith("https://127.0.0.1:")
        with pytest.raises(httpx.ConnectError, match="certificate"):  # it is TLS, not HTTP under another name
            httpx.get(url, timeout=30)
        li = Annotator(url, tokens["li"], verify=ssl.create_default_context(cafile=certificate[0]))
        task = li.open()
        assert task is not None and li.rank(task, [1, 2, 3, 4]).status_code == 200
        assert all(cookie.secure for cookie in li.http.cookies.jar) and len(li.http.cookies.jar) == 1


# --- the command -----------------------------------------------------------------------------------------------------


def label(run: Path, *options: str) -> Result:
    return CliRunner().invoke(app, ["label", str(run), *options])


def test_gold_from_a_file_is_mixed_into_everybodys_items(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", 3, LabelConfig(overlap=0.0, gold=1.0))
    (tmp_path / "gold.jsonl").write_text('{"item": "item-00001", "overall": [1, 2, 2, 4]}\n')
    assert "1 gold items added" in label(run, "--gold", str(tmp_path / "gold.jsonl")).output
    desk = open_page(run / "feedback", LabelConfig(overlap=0.0, gold=1.0)).desk
    for name in ("li", "wang"):
        task = desk.next(name)
        assert task is not None and task.item.id == "item-00001", name


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ('{"item": "item-00001"}', "gold.jsonl:2: the row names no item and its ranks"),
        ('{"item": "gone", "overall": [1, 2, 3, 4]}', "'gone'"),
        ('{"item": "item-00001", "overall": [1, 2]}', "'item-00001'"),
        ('{"item": "item-00000", "overall": [4, 3, 2, 1]}', "'item-00000' stands in an earlier line"),
        ('{"item": "item-00002", "overall": [4, 3, 2, 1]}', "has gold ranks already"),
    ],
)
def test_an_unfit_row_of_gold_is_named_and_adds_none(tmp_path: Path, row: str, fault: str) -> None:
    run = make_run(tmp_path / "run", 3, CONFIG)
    store = open_page(run / "feedback", CONFIG).store
    store.add_gold({"item-00002": [1, 1, 1, 1]}, "root")
    (tmp_path / "gold.jsonl").write_text('{"item": "item-00000", "overall": [1, 2, 3, 4]}\n' + row + "\n")
    result = label(run, "--gold", str(tmp_path / "gold.jsonl"))
    assert result.exit_code == 2 and fault in " ".join(result.output.split())
    assert store.gold() == {"item-00002": (1, 1, 1, 1)}


def test_a_taken_port_and_a_missing_certificate_are_one_line(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", 1, CONFIG)
    with socket.create_server(("127.0.0.1", 0)) as other:
        result = label(run, "--port", str(other.getsockname()[1]))
    assert result.exit_code == 2 and "--port: can't listen on 127.0.0.1:" in " ".join(result.output.split())
    result = label(run, "--port", "0", "--tls", str(tmp_path / "no.pem"), str(tmp_path / "no.key"))
    assert result.exit_code == 2 and "--tls: HTTPS can't be served with" in " ".join(result.output.split())
