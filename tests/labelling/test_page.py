"""The ranking page in a real browser: by mouse, by touch and by keys, with a network that fails."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Route, expect, sync_playwright

from tests.helpers.labelling import accounts, make_run, server
from zj_ray.config.schema import LabelConfig
from zj_ray.labelling.server import open_page
from zj_ray.rankings.store import RankingStore
from zj_ray.rankings.tables import Ranking

pytestmark = pytest.mark.browser
CONFIG = LabelConfig(overlap=0.0, gold=0.0)
DESK, TABLET = {"width": 1280, "height": 800}, {"width": 820, "height": 1180}


@dataclass
class Ward:
    """A server, its store, and the tokens of its accounts."""

    url: str
    store: RankingStore
    tokens: dict[str, str]

    def rankings(self, name: str) -> list[Ranking]:
        """The rankings of an annotator that count, in order of time."""
        own = [r for of_item in self.store.all_rankings().values() for r in of_item if r.annotator == name]
        return sorted(own, key=lambda r: str(r.created))


@pytest.fixture(scope="module")
def browser(browser_path: str) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=browser_path)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def ward(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ward]:
    run = make_run(tmp_path_factory.mktemp("ward") / "run", 40, CONFIG)
    annotators = dict.fromkeys(("li", "wang", "zhao", "sun"), "annotator")
    tokens = accounts(run, CONFIG, **annotators, chen="adjudicator", root="admin")
    with server(run) as (url, _):
        page = open_page(run / "feedback", CONFIG)
        yield Ward(url, page.store, tokens)
        page.store.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page on a desk; a fault in a script or a refused resource fails the test."""
    faults: list[str] = []
    context = browser.new_context(viewport=DESK)
    context.set_default_timeout(30_000)
    opened = context.new_page()
    opened.on("pageerror", lambda fault: faults.append(str(fault)))

    def note(message: ConsoleMessage) -> None:
        if message.type == "error" and "ERR_INTERNET_DISCONNECTED" not in message.text:
            faults.append(message.text)

    opened.on("console", note)
    yield opened
    context.close()
    assert faults == []


def enter(page: Page, ward: Ward, name: str) -> None:
    page.goto(f"{ward.url}/login")
    page.get_by_label("访问令牌").fill(ward.tokens[name])
    page.keyboard.press("Enter")
    page.wait_for_url(lambda url: "login" not in url)


def item(page: Page) -> str:
    return page.locator("#task").get_attribute("data-item") or ""


def submit(page: Page) -> None:
    """Send the ranks and wait for the next item."""
    before = item(page)
    page.get_by_role("button", name="提交，下一题").click()
    wait_for_another(page, before)


def wait_for_another(page: Page, before: str) -> None:
    page.wait_for_function("before => document.querySelector('#task')?.dataset.item !== before", arg=before)


def rank_by_click(page: Page, ranks: list[int]) -> None:
    for card, rank in enumerate(ranks):
        page.locator(".card").nth(card).locator(f"[data-rank='{rank}']").click()


def as_seen(ranking: Ranking) -> list[int]:
    assert ranking.shown is not None
    return [ranking.overall[position] for position in ranking.shown]


def test_a_doctors_day_from_login_to_export(page: Page, ward: Ward) -> None:
    enter(page, ward, "li")
    for ranks in ([1, 2, 3, 4], [4, 3, 2, 1], [2, 2, 1, 4], [1, 1, 1, 1]):
        rank_by_click(page, ranks)
        submit(page)
    page.get_by_label("全部错误，都不能给患者").check()
    page.get_by_role("button", name="提交，下一题").click()
    expect(page.locator("#message")).to_have_text("请写出正确的回答。")
    page.get_by_label("正确的回答").fill("请立即到急诊，排除颅内出血。")
    page.get_by_label("备注").fill("四个回答都没有提到急诊")
    submit(page)
    rankings = ward.rankings("li")
    assert [as_seen(r) for r in rankings] == [[1, 2, 3, 4], [4, 3, 2, 1], [2, 2, 1, 4], [1, 1, 1, 1], [1, 1, 1, 1]]
    assert rankings[4].all_wrong and rankings[4].right_answer == "请立即到急诊，排除颅内出血。"
    assert rankings[4].comment == "四个回答都没有提到急诊"
    assert all(r.seconds is not None and 0 < r.seconds < 120 for r in rankings)

    sixth = item(page)
    page.get_by_role("button", name="撤销上一题").click()
    expect(page.locator(".notice")).to_contain_text("您撤销过")
    assert item(page) == rankings[4].item
    expect(page.get_by_label("正确的回答")).to_have_value("请立即到急诊，排除颅内出血。")
    page.get_by_label("全部错误，都不能给患者").uncheck()
    rank_by_click(page, [3, 1, 1, 3])
    submit(page)
    again = ward.rankings("li")[4]
    assert item(page) == sixth and as_seen(again) == [3, 1, 1, 3] and not again.all_wrong

    page.get_by_role("button", name="退出 · li").click()
    page.wait_for_url("**/login")
    enter(page, ward, "li")
    assert item(page) == sixth  # goes on where it was left
    expect(page.locator(".progress")).to_contain_text("我已完成 5")
    page.get_by_role("button", name="退出 · li").click()
    page.wait_for_url("**/login")

    enter(page, ward, "root")
    with page.expect_download() as download:
        page.get_by_role("link", name="导出全部排序").click()
    rows = [json.loads(line) for line in Path(download.value.path()).read_text(encoding="utf-8").splitlines()]
    assert {row["id"] for row in rows} >= {r.item for r in rankings}


def test_a_drag_moves_a_letter_and_two_in_one_lane_are_tied(page: Page, ward: Ward) -> None:
    enter(page, ward, "wang")
    for letter, lane in (("A", 2), ("B", 1), ("C", 2), ("D", 4)):
        page.locator(".chip", has_text=letter).drag_to(page.locator(f"[data-lane='{lane}'] .drop"))
    expect(page.locator(".card").nth(2).locator(".rank")).to_have_text("总体 · 第 2 名")
    submit(page)
    assert as_seen(ward.rankings("wang")[-1]) == [2, 1, 2, 4]


def test_a_finger_on_a_tablet_does_the_same(browser: Browser, ward: Ward) -> None:
    context = browser.new_context(viewport=TABLET, has_touch=True, is_mobile=True)
    tablet = context.new_page()
    enter(tablet, ward, "wang")
    for card, rank in enumerate((2, 1, 3, 3)):
        tablet.locator(".card").nth(card).locator(f"[data-rank='{rank}']").tap()
    tablet.get_by_role("button", name="提交，下一题").tap()
    tablet.wait_for_load_state()
    expect(tablet.locator(".card.ranked")).to_have_count(0)
    assert as_seen(ward.rankings("wang")[-1]) == [2, 1, 3, 3]
    assert tablet.evaluate("document.documentElement.scrollWidth") <= TABLET["width"]
    context.close()


def test_everything_can_be_done_without_a_mouse(page: Page, ward: Ward) -> None:
    enter(page, ward, "zhao")
    tab_to(page, "card")
    for key in ("2", "ArrowRight", "1", "ArrowRight", "4", "ArrowUp", "ArrowRight", "ArrowUp", "ArrowDown"):
        page.keyboard.press(key)
    expect(page.locator("#live")).to_contain_text("回答 D：总体 第 2 名，与 A 并列")
    tab_to(page, "overall")
    page.keyboard.press("ArrowRight")  # the next tab: safety
    expect(page.locator("#state")).to_contain_text("与总体相同")
    page.locator(".card").first.focus()
    page.keyboard.press("4")
    expect(page.locator("#state")).to_have_text("已单独排序")
    before = item(page)
    page.keyboard.press("Control+Enter")
    wait_for_another(page, before)
    ranking = ward.rankings("zhao")[-1]
    assert as_seen(ranking) == [2, 1, 4, 2] and ranking.aspects is not None and ranking.shown is not None
    assert [ranking.aspects["safety"][position] for position in ranking.shown] == [4, 1, 3, 2]
    assert ranking.aspects["fluency"] == ranking.overall
    before = item(page)
    tab_to(page, "skip")
    for key in ("Enter", "Space"):
        page.keyboard.press(key)
    expect(page.get_by_label("不属于我的专业")).to_be_checked()
    page.keyboard.press("Enter")
    wait_for_another(page, before)
    page.goto(f"{ward.url}/history")
    expect(page.locator("tr").nth(1)).to_contain_text("不属于我的专业")


def tab_to(page: Page, what: str) -> None:
    """Presses Tab until the focus, which must be seen, is on an element of this class, id or aspect."""
    for _ in range(60):
        page.keyboard.press("Tab")
        here = "e => [e.className, e.id, e.dataset.aspect].includes(what)".replace("what", json.dumps(what))
        if page.evaluate(f"({here})(document.activeElement)"):
            assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
            return
    raise AssertionError(f"Tab does not reach {what}")


def test_a_half_done_ranking_outlives_a_reload_and_a_change_of_language(page: Page, ward: Ward) -> None:
    enter(page, ward, "sun")
    before = item(page)
    rank_by_click(page, [1, 2])
    page.get_by_label("备注").fill("稍后再看")
    page.reload()
    expect(page.locator(".card.ranked")).to_have_count(2)
    page.get_by_role("link", name="English").click()
    expect(page.get_by_label("Comment")).to_have_value("稍后再看")
    assert item(page) == before and page.locator("html").get_attribute("lang") == "en"
    page.get_by_role("button", name="Submit and go on").click()
    expect(page.locator("#message")).to_have_text("Give every answer a rank first.")
    page.get_by_role("link", name="中文").click()
    expect(page.get_by_role("button", name="提交，下一题")).to_be_visible()


def test_a_network_that_fails_loses_nothing_and_stores_once(page: Page, ward: Ward) -> None:
    enter(page, ward, "sun")
    page.evaluate("sessionStorage.clear()")
    page.reload()
    before, already = item(page), len(ward.rankings("sun"))
    rank_by_click(page, [1, 2, 3, 4])
    lost: list[int] = []

    def lose_the_answer(route: Route) -> None:
        if lost:
            route.continue_()
            return
        lost.append(route.fetch().status)  # the ranking reaches the server, but its answer does not come back
        route.abort("internetdisconnected")

    page.route("**/api/rank", lose_the_answer)
    submit(page)
    assert lost == [200]
    rankings = ward.rankings("sun")
    assert [r.item for r in rankings].count(before) == 1 and len(rankings) == already + 1
    assert [event for event in ward.store.all_rankings([before])[before] if event.annotator == "sun"] != []


@pytest.mark.parametrize("size", [DESK, TABLET], ids=["desk", "tablet"])
@pytest.mark.parametrize("language", ["zh", "en"])
def test_no_page_is_wider_than_the_screen(browser: Browser, ward: Ward, size: dict[str, int], language: str) -> None:
    for name, paths in {
        "chen": ("/login", "/", "/adjudicate", "/history"),
        "root": ("/admin", "/gold", "/agreement"),
    }.items():
        context = browser.new_context(viewport=size)
        page = context.new_page()
        enter(page, ward, name)
        page.goto(f"{ward.url}/language/{language}")
        for path in paths:
            page.goto(f"{ward.url}{path}")
            assert page.evaluate("document.documentElement.scrollWidth") <= size["width"], path
        context.close()
