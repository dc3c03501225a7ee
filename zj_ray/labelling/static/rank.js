// The ranking widget. `ranks` is all it knows: for each aspect the lane of every card (0: unranked), or null: as
// overall. Cards stay where they are while one reads; letters move between lanes, by mouse, finger or key, and a lane
// may hold several.
import { send } from "./send.js";

const task = document.querySelector("#task"), words = JSON.parse(task.dataset.words);
const all = (selector) => [...document.querySelectorAll(selector)];
const cards = all(".card"), lanes = all(".lane .drop"), tabs = all("[role=tab]");
const LETTERS = cards.map((card) => card.querySelector(".letter").textContent), K = cards.length;
const find = (id) => document.getElementById(id);
const allWrong = find("all-wrong"), right = find("right-answer"), comment = find("comment");
const message = find("message"), submit = find("submit");
const DRAFT = `draft/${task.dataset.item}`;
const fill = (text, ...values) => values.reduce((filled, value) => filled.replace("{}", value), text);

const ranks = { overall: Array(K).fill(0), safety: null, professionalism: null, fluency: null };
let aspect = "overall";

const chips = LETTERS.map((letter, card) => {
  const chip = document.createElement("span");
  chip.dataset.card = card;
  return Object.assign(chip, { className: "chip", textContent: letter, ariaHidden: "true" });
});
const current = () => ranks[aspect] ?? ranks.overall;
const laneName = (lane) => lane ? fill(words.nth_rank, lane) : words.unranked;

function show() {
  cards.forEach((card, number) => {
    const lane = current()[number];
    card.classList.toggle("ranked", lane > 0);
    card.querySelector(".rank").textContent = lane ? `${words[aspect]} · ${laneName(lane)}` : laneName(lane);
    for (const button of card.querySelectorAll("[data-rank]")) {
      button.setAttribute("aria-pressed", button.dataset.rank == lane);
    }
    if (chips[number].parentElement !== lanes[lane]) lanes[lane].append(chips[number]);
  });
  for (const tab of tabs) {
    tab.setAttribute("aria-selected", tab.dataset.aspect === aspect);
    tab.tabIndex = tab.dataset.aspect === aspect ? 0 : -1;
    tab.querySelector(".mark").hidden = tab.dataset.aspect === "overall" || !ranks[tab.dataset.aspect];
  }
  find("lanes").setAttribute("aria-labelledby", `tab-${aspect}`);
  find("state").textContent = aspect === "overall" ? "" : ranks[aspect] ? words.changed : words.as_overall;
  find("reset").hidden = aspect === "overall" || !ranks[aspect];
  find("right").hidden = !allWrong.checked;
}

function keep() {
  const texts = { right_answer: right.value, comment: comment.value };
  sessionStorage.setItem(DRAFT, JSON.stringify({ ranks, all_wrong: allWrong.checked, ...texts }));
}

function put(card, lane) {
  if (aspect !== "overall") ranks[aspect] ??= [...ranks.overall];
  current()[card] = lane;
  show(); keep();
  const tied = LETTERS.filter((_, other) => other !== card && lane && current()[other] === lane);
  const moved = fill(words.moved, LETTERS[card], words[aspect], laneName(lane));
  find("live").textContent = moved + (tied.length ? fill(words.tied, tied.join(" ")) : "");
}

function choose(name) { aspect = name; show(); }

function restore(draft) {
  if (!draft.ranks) return;
  for (const name of Object.keys(ranks)) if (draft.ranks[name]?.length === K) ranks[name] = draft.ranks[name];
  allWrong.checked = draft.all_wrong; right.value = draft.right_answer; comment.value = draft.comment;
}

function missing() {
  const complete = Object.values(ranks).every((ofCards) => ofCards === null || ofCards.every((lane) => lane > 0));
  if (!complete) return words.rank_all;
  return allWrong.checked && !right.value.trim() ? words.right_missing : "";
}

async function deliver(path, body, next) {
  submit.disabled = true; message.textContent = words.saving;
  try {
    const onOffline = () => (message.textContent = words.offline);
    await send(path, task.dataset.csrf, { item: task.dataset.item, ...body }, onOffline);
    sessionStorage.removeItem(DRAFT);
    location.assign(next);
  } catch (fault) {
    submit.disabled = false;
    message.textContent = fault.refused ? words.refused + fault.message : words.still_offline;
  }
}

function save() {
  message.textContent = missing();
  if (message.textContent || submit.disabled) return;
  const { overall, ...others } = ranks;
  const aspects = Object.fromEntries(Object.entries(others).filter(([, ofCards]) => ofCards));
  const judgement = { key: task.dataset.key, overall, aspects, all_wrong: allWrong.checked, comment: comment.value };
  deliver("/api/rank", { ...judgement, right_answer: allWrong.checked ? right.value : null }, task.dataset.after);
}

cards.forEach((card, number) => {
  card.addEventListener("click", (event) => {
    if (event.target.dataset.rank) put(number, Number(event.target.dataset.rank));
  });
  card.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const lane = current()[number], moves = { ArrowUp: Math.max(1, lane - 1), ArrowDown: Math.min(K, lane + 1) };
    const steps = { ArrowLeft: K - 1, ArrowRight: 1 }, digit = Number(event.key);
    if (digit >= 1 && digit <= K) put(number, digit);
    else if (event.key in moves) put(number, moves[event.key]);
    else if (event.key in steps) cards[(number + steps[event.key]) % K].focus();
    else return;
    event.preventDefault();
  });
});
tabs.forEach((tab, number) => {
  tab.addEventListener("click", () => choose(tab.dataset.aspect));
  tab.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: tabs.length - 1, ArrowRight: 1 }[event.key];
    if (!step) return;
    const next = tabs[(number + step) % tabs.length];
    choose(next.dataset.aspect); next.focus(); event.preventDefault();
  });
});
lanes.forEach((lane, number) => {
  const onAdd = (event) => put(Number(event.item.dataset.card), number);
  new Sortable(lane, { group: "lanes", animation: 120, onAdd });
});
allWrong.addEventListener("change", () => {
  // None is better: all are tied, and may still be ordered.
  if (allWrong.checked && ranks.overall.every((lane) => lane === 0)) ranks.overall.fill(1);
  show(); keep();
  if (allWrong.checked) right.focus();
});
for (const field of [right, comment]) field.addEventListener("input", keep);
find("reset").addEventListener("click", () => { ranks[aspect] = null; show(); keep(); });
submit.addEventListener("click", save);
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) save();
});
find("skip").addEventListener("click", () => find("skip-dialog").showModal());
find("skip-cancel").addEventListener("click", () => find("skip-dialog").close());
find("skip-dialog").querySelector("form").addEventListener("submit", () => {
  const reason = document.querySelector("[name=reason]:checked").value;
  deliver("/api/skip", { reason, detail: find("skip-detail").value }, location.pathname);
});

restore(JSON.parse(task.dataset.draft));
restore(JSON.parse(sessionStorage.getItem(DRAFT) ?? "{}"));
show();
